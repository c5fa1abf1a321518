"""Linux isolation: control groups, users, mount views, sandboxes, proving that processes are gone.

Standard library only, and nothing of ours: these modules are loaded by the agent (`python -I -S`) as well as
by the engine. A node: `cgroups` (v1, v2, hybrid), `view` (a private mount namespace for a uid of its own),
`disk`, `network`. A job: `bwrap` (its view of the files, as a command line), `etc` (what it sees as /etc),
`seccomp` (the system calls it may not make), `tiers` (whether this host can do that). `processes` finds a
node's processes by the marker in their environment; `linux` has the system calls Python has no name for.
"""
