"""Which hosts a build may reach because the server's own settings of uv name them."""

from __future__ import annotations

from pathlib import Path

from tidemill.environments import index

DEFAULTS = {("pypi.org", 443), ("files.pythonhosted.org", 443)}


def test_hosts_are_those_that_the_settings_name(tmp_path: Path):
    config = tmp_path / "uv.toml"
    config.write_text("")
    env = {"UV_CONFIG_FILE": str(config), "PATH": "/bin", "SECRET": "x", "UV_FIND_LINKS": "/srv/wheels"}
    plain = index.settings(env)
    assert set(plain.hosts) == DEFAULTS
    assert "SECRET" not in plain.uv
    assert plain.files == (str(config), "/srv/wheels")

    more = index.settings(
        {**env, "UV_EXTRA_INDEX_URL": "http://u:p@10.1.2.3:8080/simple https://feed.example/x"}
    )
    assert set(more.hosts) == DEFAULTS | {("10.1.2.3", 8080), ("feed.example", 443)}

    config.write_text('index-url = "http://127.0.0.1:3141/root/pypi"\n')
    assert index.settings(env).hosts == (("127.0.0.1", 3141),)
    config.write_text("no-index = true\n")
    assert index.settings(env).hosts == ()
