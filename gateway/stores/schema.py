"""The tables of the state file."""

#: The form of the tables, also the `user_version` in SCHEMA; a file of another form is refused, not guessed at.
VERSION = 6

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), latest REAL, offset REAL, turn INTEGER);
INSERT INTO clock VALUES (1, 0.0, 0.0, 0);

-- ready_at and refused_until are worked out from the tables below, and kept: see gateway/keys/sqlite.py.
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, digest TEXT UNIQUE, account TEXT, turn INTEGER, ready_at REAL, refused_until REAL,
    seen_at REAL, used INTEGER DEFAULT 0
);
CREATE INDEX keys_by_turn ON keys (turn, id, ready_at, digest);
CREATE INDEX keys_by_ready ON keys (ready_at, digest);
CREATE INDEX keys_by_refusal ON keys (refused_until, digest);
CREATE INDEX keys_by_account ON keys (account);
CREATE TABLE key_sets (id TEXT PRIMARY KEY, window_s REAL, seen_at REAL) WITHOUT ROWID;
CREATE TABLE uses (digest TEXT, at REAL, lease TEXT, PRIMARY KEY (digest, at, lease)) WITHOUT ROWID;
CREATE TRIGGER uses_added AFTER INSERT ON uses BEGIN
    UPDATE keys SET used = used + 1 WHERE digest = NEW.digest;
END;
CREATE TRIGGER uses_removed AFTER DELETE ON uses BEGIN
    UPDATE keys SET used = used - 1 WHERE digest = OLD.digest;
END;
CREATE TABLE flights (digest TEXT, ends_at REAL, lease TEXT, PRIMARY KEY (digest, ends_at, lease)) WITHOUT ROWID;
CREATE TABLE cooldowns (
    subject TEXT PRIMARY KEY, until REAL, kind TEXT, source TEXT, reason TEXT
) WITHOUT ROWID;
CREATE INDEX cooldowns_by_end ON cooldowns (until);

CREATE TABLE ledger (
    request_id TEXT, digest TEXT, answered INTEGER, token TEXT, delivery TEXT, lease_ends_at REAL,
    message_id TEXT, failure INTEGER, published INTEGER, expires_at REAL, envelope BLOB, hop INTEGER,
    PRIMARY KEY (request_id, digest)
);
CREATE INDEX ledger_by_end ON ledger (expires_at);
PRAGMA user_version = 6;
COMMIT;
"""

#: Tables that a file of this form may lack: a worker of before them neither reads nor misses them.
ADDITIONS = """
CREATE TABLE IF NOT EXISTS processes (id TEXT PRIMARY KEY, number INTEGER, beat_at REAL, facts TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage (
    span TEXT, about TEXT, since INTEGER, name TEXT, fact TEXT, value INTEGER,
    PRIMARY KEY (span, about, since, name, fact)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waits (id TEXT PRIMARY KEY, due_at REAL, facts TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waits_by_end ON waits (due_at);

CREATE TABLE IF NOT EXISTS paid_calls (
    id TEXT PRIMARY KEY, at REAL, key TEXT, model TEXT, tag TEXT, prompt INTEGER, completion INTEGER, cost_nano INTEGER,
    generation_id TEXT, request TEXT, cut_off INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS paid_calls_by_time ON paid_calls (at);
CREATE TABLE IF NOT EXISTS paid_sums (
    span TEXT, since INTEGER, key TEXT, model TEXT, tag TEXT, calls INTEGER, prompt INTEGER, completion INTEGER,
    cost_nano INTEGER, unpriced INTEGER, cut_off INTEGER, PRIMARY KEY (span, since, key, model, tag)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS paid_calls_added AFTER INSERT ON paid_calls BEGIN
    INSERT INTO paid_sums
    SELECT span, CAST(NEW.at AS INTEGER) / length * length, NEW.key, NEW.model, NEW.tag, NOT NEW.cut_off, NEW.prompt,
        NEW.completion, COALESCE(NEW.cost_nano, 0), NEW.cost_nano IS NULL AND NOT NEW.cut_off, NEW.cut_off
    FROM (SELECT 'hour' AS span, 3600 AS length UNION ALL SELECT 'day', 86400) WHERE true
    ON CONFLICT (span, since, key, model, tag) DO UPDATE SET
        calls = calls + excluded.calls, prompt = prompt + excluded.prompt,
        completion = completion + excluded.completion, cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced, cut_off = cut_off + excluded.cut_off;
END;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT, ends_at REAL) WITHOUT ROWID;
"""
