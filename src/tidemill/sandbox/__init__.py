"""Linux isolation: control groups, users, mount views, proving that processes are gone.

Standard library only, and nothing of ours: these modules are loaded by the agent (`python -I -S`) as well as
by the engine. What exists: `cgroups` (v1, v2, hybrid), `view` (a private mount namespace for a uid of its
own), `processes` (finding a node's processes by the marker in their environment), `linux` (the system calls
Python has no name for).

Seams for full isolation: `agent/spawn.py:enter` is the one place where a task's process takes on its limits
at its start, so namespaces, a network namespace, seccomp or a bubblewrap argv go there;
`agent/main.py:isolate` is the one place where the node's view is made, so the relay that gives a network
namespace its `localhost` starts there.
"""
