-- Schema 1. Statements end with a semicolon and contain no other. The SQL is common to SQLite and PostgreSQL; for the
-- latter BLOB is read as BYTEA. `ordinal` is the order of first insertion; `crc` covers the row's other columns but it.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    crc BIGINT NOT NULL
);

CREATE TABLE study (
    ordinal BIGINT NOT NULL,
    study_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    crc BIGINT NOT NULL
);

CREATE TABLE trial (
    ordinal BIGINT NOT NULL,
    study_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    crc BIGINT NOT NULL,
    PRIMARY KEY (study_id, number)
);

CREATE TABLE attempt (
    ordinal BIGINT NOT NULL,
    attempt_id TEXT PRIMARY KEY,
    study_id TEXT NOT NULL,
    trial BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    crc BIGINT NOT NULL
);

CREATE TABLE agent (
    ordinal BIGINT NOT NULL,
    agent_id TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    crc BIGINT NOT NULL
);

CREATE UNIQUE INDEX study_ordinal ON study (ordinal);
CREATE UNIQUE INDEX trial_ordinal ON trial (ordinal);
CREATE UNIQUE INDEX attempt_ordinal ON attempt (ordinal);
CREATE UNIQUE INDEX agent_ordinal ON agent (ordinal);

CREATE TABLE journal (
    seq BIGINT PRIMARY KEY,
    body BLOB NOT NULL,
    crc BIGINT NOT NULL
);

CREATE TABLE segment (
    attempt_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    encoding TEXT NOT NULL,
    raw_bytes BIGINT NOT NULL,
    n_requests BIGINT NOT NULL,
    n_chunks BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    crc BIGINT NOT NULL,
    PRIMARY KEY (attempt_id, seq)
);

CREATE INDEX segment_sha256 ON segment (sha256);
