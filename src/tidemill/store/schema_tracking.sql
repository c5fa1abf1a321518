CREATE TABLE experiments (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	workspace TEXT NOT NULL,
	experiment_id TEXT NOT NULL,
	name TEXT NOT NULL,
	artifact_location TEXT NOT NULL,
	lifecycle TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	deleted_at INTEGER,
	UNIQUE (workspace, experiment_id),
	UNIQUE (workspace, name)
);

CREATE TABLE experiment_tags (
	experiment INTEGER NOT NULL,
	key TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (experiment, key)
) WITHOUT ROWID;

CREATE TABLE runs (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	workspace TEXT NOT NULL,
	run_id TEXT NOT NULL,
	experiment INTEGER NOT NULL REFERENCES experiments (id),
	name TEXT NOT NULL,
	user TEXT NOT NULL,
	status TEXT NOT NULL,
	lifecycle TEXT NOT NULL,
	artifact_uri TEXT NOT NULL,
	start_at INTEGER NOT NULL,
	end_at INTEGER,
	deleted_at INTEGER,
	UNIQUE (workspace, run_id)
);

CREATE INDEX runs_experiment ON runs (experiment, start_at, id);

CREATE INDEX runs_workspace ON runs (workspace, start_at, id);

CREATE TABLE params (
	run INTEGER NOT NULL,
	key TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (run, key)
) WITHOUT ROWID;

CREATE TABLE tags (
	run INTEGER NOT NULL,
	key TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (run, key)
) WITHOUT ROWID;

-- One row per metric of a run, with its latest point. NaN cannot be a REAL in SQLite: it is value 0 with is_nan 1.
CREATE TABLE series (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	run INTEGER NOT NULL,
	key TEXT NOT NULL,
	timestamp_ms INTEGER NOT NULL,
	step INTEGER NOT NULL,
	value REAL NOT NULL,
	is_nan INTEGER NOT NULL,
	UNIQUE (run, key)
);

-- The point itself is the key: a batch that a client sends again adds nothing.
CREATE TABLE points (
	series INTEGER NOT NULL,
	timestamp_ms INTEGER NOT NULL,
	step INTEGER NOT NULL,
	value REAL NOT NULL,
	is_nan INTEGER NOT NULL,
	PRIMARY KEY (series, timestamp_ms, step, value, is_nan)
) WITHOUT ROWID;
