"""The tables of the state file, and how those of an earlier form become these."""

#: The form of the tables, also the `user_version` in SCHEMA; a file of a later form is refused, not guessed at.
VERSION = 5

#: Keeps `keys.used` the number of rows in `uses`, whoever writes them: a process of an earlier form may still run.
COUNTING = """
CREATE TRIGGER uses_added AFTER INSERT ON uses BEGIN
    UPDATE keys SET used = used + 1 WHERE digest = NEW.digest;
END;
CREATE TRIGGER uses_removed AFTER DELETE ON uses BEGIN
    UPDATE keys SET used = used - 1 WHERE digest = OLD.digest;
END;
"""

SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), latest REAL, offset REAL, turn INTEGER);
INSERT INTO clock VALUES (1, 0.0, 0.0, 0);

-- ready_at = max(window_until, rests_until, when enough flights have ended): kept ready-made, so that a thousand keys
-- cost what ten do.
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, digest TEXT UNIQUE, account TEXT, turn INTEGER, window_until REAL,
    rests_until REAL, refused INTEGER, ready_at REAL, seen_at REAL, used INTEGER DEFAULT 0
);
CREATE INDEX keys_by_turn ON keys (turn, id, ready_at, digest);
CREATE INDEX keys_by_ready ON keys (ready_at, digest);
CREATE INDEX keys_by_account ON keys (account);
CREATE INDEX keys_by_refusal ON keys (refused, rests_until, digest);
CREATE TABLE key_sets (key_set TEXT PRIMARY KEY, seen_at REAL) WITHOUT ROWID;
CREATE TABLE uses (digest TEXT, at REAL, lease TEXT, PRIMARY KEY (digest, at, lease)) WITHOUT ROWID;
CREATE TABLE flights (digest TEXT, ends_at REAL, lease TEXT, PRIMARY KEY (digest, ends_at, lease)) WITHOUT ROWID;
{COUNTING}CREATE TABLE cooldowns (
    subject TEXT PRIMARY KEY, until REAL, kind TEXT, source TEXT, reason TEXT
) WITHOUT ROWID;
CREATE INDEX cooldowns_by_end ON cooldowns (until);

CREATE TABLE ledger (
    request_id TEXT, digest TEXT, answered INTEGER, token TEXT, delivery TEXT, lease_ends_at REAL,
    message_id TEXT, failure INTEGER, published INTEGER, expires_at REAL, envelope BLOB, hop INTEGER,
    PRIMARY KEY (request_id, digest)
);
CREATE INDEX ledger_by_end ON ledger (expires_at);
PRAGMA user_version = 5;
COMMIT;
"""  # noqa: S608 - the trigger is ours

#: From each earlier form to the next one.
MIGRATIONS = {
    1: """
BEGIN IMMEDIATE;
ALTER TABLE ledger ADD COLUMN hop INTEGER DEFAULT 0;
PRAGMA user_version = 2;
COMMIT;
""",
    2: """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS flights (
    digest TEXT, ends_at REAL, lease TEXT, PRIMARY KEY (digest, ends_at, lease)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_refusal ON keys (refused, rests_until, digest);
PRAGMA user_version = 3;
COMMIT;
""",
    3: """
BEGIN IMMEDIATE;
ALTER TABLE keys ADD COLUMN used INTEGER DEFAULT 0;
PRAGMA user_version = 4;
COMMIT;
""",
    4: f"""
BEGIN IMMEDIATE;
UPDATE keys SET used = (SELECT count(*) FROM uses WHERE uses.digest = keys.digest);
{COUNTING}PRAGMA user_version = 5;
COMMIT;
""",  # noqa: S608 - the trigger is ours
}
