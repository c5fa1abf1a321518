-- Models that a run logged (MLflow 3). `data`: {"params", "tags", "metrics"} as they are shown.
CREATE TABLE logged_models (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	workspace TEXT NOT NULL,
	model_id TEXT NOT NULL,
	experiment INTEGER NOT NULL REFERENCES experiments (id),
	run_id TEXT NOT NULL,
	name TEXT NOT NULL,
	model_type TEXT NOT NULL,
	status TEXT NOT NULL,
	artifact_uri TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	deleted_at INTEGER,
	data TEXT NOT NULL,
	UNIQUE (workspace, model_id)
);

CREATE INDEX logged_models_experiment ON logged_models (experiment, id);

CREATE INDEX logged_models_run ON logged_models (workspace, run_id);
