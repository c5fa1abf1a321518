CREATE TABLE activity (
	seq BIGINT NOT NULL,
	at BIGINT DEFAULT '0' NOT NULL,
	action TEXT COLLATE "C" DEFAULT '' NOT NULL,
	outcome TEXT COLLATE "C" DEFAULT '' NOT NULL,
	actor TEXT COLLATE "C" DEFAULT '' NOT NULL,
	actor_name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	actor_kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
	address TEXT COLLATE "C" DEFAULT '' NOT NULL,
	agent TEXT COLLATE "C" DEFAULT '' NOT NULL,
	scope TEXT COLLATE "C" DEFAULT '' NOT NULL,
	resource TEXT COLLATE "C" DEFAULT '' NOT NULL,
	method TEXT COLLATE "C" DEFAULT '' NOT NULL,
	status BIGINT DEFAULT '0' NOT NULL,
	code TEXT COLLATE "C" DEFAULT '' NOT NULL,
	assignment TEXT COLLATE "C" DEFAULT '' NOT NULL,
	reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	correlation TEXT COLLATE "C" DEFAULT '' NOT NULL,
	count BIGINT DEFAULT '0' NOT NULL,
	hash BYTEA NOT NULL,
	CONSTRAINT activity_pk PRIMARY KEY (seq)
);

CREATE INDEX activity_at ON activity (at, seq);

CREATE TABLE attempts (
	id TEXT COLLATE "C" NOT NULL,
	job_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	number BIGINT DEFAULT '0' NOT NULL,
	compute_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	nodes BYTEA NOT NULL,
	gpu_ids BYTEA NOT NULL,
	state TEXT COLLATE "C" DEFAULT '' NOT NULL,
	epoch BIGINT DEFAULT '0' NOT NULL,
	outcome TEXT COLLATE "C",
	exit_code BIGINT,
	signal BIGINT,
	reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	message TEXT COLLATE "C" DEFAULT '' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	stop_requested_at BIGINT,
	stop_reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	ranks BYTEA NOT NULL,
	next_at BIGINT,
	revision BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT attempts_pk PRIMARY KEY (id),
	CONSTRAINT attempts_number UNIQUE (job_uid, number)
);

CREATE INDEX attempts_live ON attempts (created_at, id) WHERE state <> 'Ended';

CREATE TABLE credentials (
	id TEXT COLLATE "C" NOT NULL,
	oid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
	value BYTEA NOT NULL,
	name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	hint TEXT COLLATE "C" DEFAULT '' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
	expires_at BIGINT,
	CONSTRAINT credentials_pk PRIMARY KEY (id)
);

CREATE INDEX credentials_oid ON credentials (oid, created_at, id);

CREATE TABLE events (
	seq BIGSERIAL NOT NULL,
	subject TEXT COLLATE "C" DEFAULT '' NOT NULL,
	kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
	at BIGINT DEFAULT '0' NOT NULL,
	code TEXT COLLATE "C" DEFAULT '' NOT NULL,
	message TEXT COLLATE "C" DEFAULT '' NOT NULL,
	actor TEXT COLLATE "C" DEFAULT '' NOT NULL,
	data BYTEA NOT NULL,
	CONSTRAINT events_pk PRIMARY KEY (seq)
);

CREATE INDEX events_kind ON events (kind, seq);

CREATE INDEX events_subject ON events (subject, seq);

CREATE TABLE external_identities (
	issuer TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	oid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT external_identities_pk PRIMARY KEY (issuer, subject)
);

CREATE INDEX external_identities_oid ON external_identities (oid);

CREATE TABLE group_members (
	group_oid TEXT COLLATE "C" NOT NULL,
	member_oid TEXT COLLATE "C" NOT NULL,
	CONSTRAINT group_members_pk PRIMARY KEY (group_oid, member_oid)
);

CREATE INDEX group_members_member ON group_members (member_oid);

CREATE TABLE intervals (
	id TEXT COLLATE "C" NOT NULL,
	kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
	node_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
	compute_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	subscription TEXT COLLATE "C" DEFAULT '' NOT NULL,
	resource_group TEXT COLLATE "C" DEFAULT '' NOT NULL,
	workspace TEXT COLLATE "C" DEFAULT '' NOT NULL,
	size TEXT COLLATE "C" DEFAULT '' NOT NULL,
	tier TEXT COLLATE "C" DEFAULT '' NOT NULL,
	region TEXT COLLATE "C" DEFAULT '' NOT NULL,
	started_at BIGINT DEFAULT '0' NOT NULL,
	started_mono BIGINT DEFAULT '0' NOT NULL,
	boot_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
	last_seen_at BIGINT DEFAULT '0' NOT NULL,
	job_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	tags BYTEA NOT NULL,
	ended_at BIGINT,
	ended_mono BIGINT,
	end_reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	scope_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	CONSTRAINT intervals_pk PRIMARY KEY (id)
);

CREATE INDEX intervals_compute ON intervals (compute_uid, started_at, id);

CREATE INDEX intervals_job ON intervals (job_uid, started_at, id) WHERE job_uid <> '';

CREATE INDEX intervals_node ON intervals (node_id, started_at, id);

CREATE INDEX intervals_open ON intervals (started_at, id) WHERE ended_at IS NULL;

CREATE INDEX intervals_scope ON intervals (scope_key, started_at, id);

CREATE TABLE leases (
	token BIGSERIAL NOT NULL,
	name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	owner TEXT COLLATE "C" DEFAULT '' NOT NULL,
	expires_at BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT leases_pk PRIMARY KEY (token),
	CONSTRAINT leases_name UNIQUE (name)
);

CREATE TABLE meta (
	key TEXT COLLATE "C" NOT NULL,
	value BYTEA NOT NULL,
	CONSTRAINT meta_pk PRIMARY KEY (key)
);

CREATE TABLE nodes (
	id TEXT COLLATE "C" NOT NULL,
	compute_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	pool TEXT COLLATE "C" DEFAULT '' NOT NULL,
	size TEXT COLLATE "C" DEFAULT '' NOT NULL,
	cpu_milli BIGINT DEFAULT '0' NOT NULL,
	memory BIGINT DEFAULT '0' NOT NULL,
	gpus BIGINT DEFAULT '0' NOT NULL,
	gpu_ids BYTEA NOT NULL,
	state TEXT COLLATE "C" DEFAULT '' NOT NULL,
	tier TEXT COLLATE "C" DEFAULT '' NOT NULL,
	handle BYTEA NOT NULL,
	limits BYTEA NOT NULL,
	attempt_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
	idle_since BIGINT,
	created_at BIGINT DEFAULT '0' NOT NULL,
	ready_at BIGINT,
	closed_at BIGINT,
	heartbeat_at BIGINT DEFAULT '0' NOT NULL,
	reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	next_at BIGINT,
	revision BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT nodes_pk PRIMARY KEY (id)
);

CREATE INDEX nodes_compute ON nodes (compute_uid, created_at, id);

CREATE INDEX nodes_compute_live ON nodes (compute_uid, created_at, id) WHERE state <> 'Closed';

CREATE INDEX nodes_live ON nodes (created_at, id) WHERE state <> 'Closed';

CREATE TABLE principals (
	oid TEXT COLLATE "C" NOT NULL,
	kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
	name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	display_name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	app_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
	resource TEXT COLLATE "C" DEFAULT '' NOT NULL,
	disabled BIGINT DEFAULT '0' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
	revision BIGINT DEFAULT '0' NOT NULL,
	name_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	app_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	resource_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	CONSTRAINT principals_pk PRIMARY KEY (oid),
	CONSTRAINT principals_name UNIQUE (name_key)
);

CREATE UNIQUE INDEX principals_app ON principals (app_key) WHERE app_key <> '';

CREATE INDEX principals_resource ON principals (resource_key) WHERE resource_key <> '';

CREATE TABLE resources (
	uid TEXT COLLATE "C" NOT NULL,
	subscription TEXT COLLATE "C" DEFAULT '' NOT NULL,
	resource_group TEXT COLLATE "C" DEFAULT '' NOT NULL,
	workspace TEXT COLLATE "C" DEFAULT '' NOT NULL,
	type TEXT COLLATE "C" DEFAULT '' NOT NULL,
	name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	parent TEXT COLLATE "C" DEFAULT '' NOT NULL,
	state TEXT COLLATE "C" DEFAULT '' NOT NULL,
	spec BYTEA NOT NULL,
	status BYTEA NOT NULL,
	tags BYTEA NOT NULL,
	location TEXT COLLATE "C" DEFAULT '' NOT NULL,
	ref TEXT COLLATE "C" DEFAULT '' NOT NULL,
	digest TEXT COLLATE "C" DEFAULT '' NOT NULL,
	archived BIGINT DEFAULT '0' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	modified_at BIGINT DEFAULT '0' NOT NULL,
	created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
	next_at BIGINT,
	revision BIGINT DEFAULT '0' NOT NULL,
	scope_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	type_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	parent_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	whole_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	ref_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	parent_uid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	CONSTRAINT resources_pk PRIMARY KEY (uid),
	CONSTRAINT resources_key UNIQUE (whole_key)
);

CREATE INDEX resources_digest ON resources (digest, uid) WHERE digest <> '';

CREATE INDEX resources_due ON resources (type_key, next_at, uid) WHERE next_at IS NOT NULL;

CREATE INDEX resources_family ON resources (type_key, scope_key, parent_uid, archived, uid);

CREATE INDEX resources_parent ON resources (type_key, scope_key, parent_key, archived, uid) WHERE parent_key <> '';

CREATE INDEX resources_ref ON resources (type_key, ref_key, state, archived, uid) WHERE ref_key <> '';

CREATE INDEX resources_scope ON resources (type_key, scope_key, archived, uid);

CREATE INDEX resources_scope_state ON resources (type_key, scope_key, state, archived, uid);

CREATE INDEX resources_state ON resources (type_key, state, archived, uid);

CREATE TABLE role_assignments (
	id TEXT COLLATE "C" NOT NULL,
	scope TEXT COLLATE "C" DEFAULT '' NOT NULL,
	principal TEXT COLLATE "C" DEFAULT '' NOT NULL,
	role TEXT COLLATE "C" DEFAULT '' NOT NULL,
	description TEXT COLLATE "C" DEFAULT '' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
	scope_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	CONSTRAINT role_assignments_pk PRIMARY KEY (id),
	CONSTRAINT role_assignments_once UNIQUE (principal, role, scope_key)
);

CREATE INDEX role_assignments_role ON role_assignments (role);

CREATE INDEX role_assignments_scope ON role_assignments (scope_key);

CREATE TABLE role_definitions (
	id TEXT COLLATE "C" NOT NULL,
	name TEXT COLLATE "C" DEFAULT '' NOT NULL,
	permissions BYTEA NOT NULL,
	description TEXT COLLATE "C" DEFAULT '' NOT NULL,
	assignable_scopes BYTEA NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
	modified_at BIGINT DEFAULT '0' NOT NULL,
	revision BIGINT DEFAULT '0' NOT NULL,
	name_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
	CONSTRAINT role_definitions_pk PRIMARY KEY (id),
	CONSTRAINT role_definitions_name UNIQUE (name_key)
);

CREATE TABLE sign_in_failures (
	key TEXT COLLATE "C" NOT NULL,
	count BIGINT DEFAULT '0' NOT NULL,
	last_at BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT sign_in_failures_pk PRIMARY KEY (key)
);

CREATE INDEX sign_in_failures_last ON sign_in_failures (last_at);

CREATE TABLE sign_in_sessions (
	id TEXT COLLATE "C" NOT NULL,
	oid TEXT COLLATE "C" DEFAULT '' NOT NULL,
	client TEXT COLLATE "C" DEFAULT '' NOT NULL,
	how TEXT COLLATE "C" DEFAULT '' NOT NULL,
	address TEXT COLLATE "C" DEFAULT '' NOT NULL,
	salt BYTEA NOT NULL,
	generation BIGINT DEFAULT '0' NOT NULL,
	created_at BIGINT DEFAULT '0' NOT NULL,
	used_at BIGINT DEFAULT '0' NOT NULL,
	expires_at BIGINT DEFAULT '0' NOT NULL,
	ended_at BIGINT,
	end_reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
	revision BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT sign_in_sessions_pk PRIMARY KEY (id)
);

CREATE INDEX sign_in_sessions_oid ON sign_in_sessions (oid, created_at, id);
