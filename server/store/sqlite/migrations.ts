/**
 * The schema, as numbered steps: step n takes `user_version` from n - 1 to n. A step that was released is never edited.
 * Every step runs in one transaction, so that a crash leaves the old schema or the new one.
 */
import type Database from 'better-sqlite3';

const INITIAL = `
CREATE TABLE products (
  name TEXT PRIMARY KEY, keys TEXT NOT NULL, created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The metadata of ci-<product>, every version: a device or an auditor may ask for an older one.
CREATE TABLE delegations (
  product TEXT NOT NULL REFERENCES products (name), version INTEGER NOT NULL, document TEXT NOT NULL,
  PRIMARY KEY (product, version)
) STRICT;

CREATE TABLE releases (
  n INTEGER PRIMARY KEY, product TEXT NOT NULL REFERENCES products (name), version TEXT NOT NULL,
  progress TEXT NOT NULL, accepted_at INTEGER NOT NULL,
  UNIQUE (product, version)
) STRICT;
CREATE TABLE bundles (
  product TEXT NOT NULL, version TEXT NOT NULL, compatible TEXT NOT NULL, path TEXT NOT NULL,
  manifest_sha256 TEXT NOT NULL UNIQUE, manifest_bytes INTEGER NOT NULL, manifest TEXT NOT NULL,
  metadata_version INTEGER NOT NULL, accepted_at INTEGER NOT NULL, accepted_by TEXT NOT NULL,
  PRIMARY KEY (product, version, compatible),
  FOREIGN KEY (product, version) REFERENCES releases (product, version)
) STRICT;

CREATE TABLE operators (
  name TEXT PRIMARY KEY, role TEXT NOT NULL, token_sha256 TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL, revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE enrolment_tokens (
  token_sha256 TEXT PRIMARY KEY, expires_at INTEGER NOT NULL, device TEXT, tags TEXT NOT NULL, used_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, public_key TEXT NOT NULL, state TEXT NOT NULL,
  compatible TEXT NOT NULL, tags TEXT NOT NULL, attributes TEXT NOT NULL, agent TEXT, running TEXT,
  running_manifest TEXT GENERATED ALWAYS AS (running ->> 'manifest') VIRTUAL,
  floor INTEGER NOT NULL DEFAULT 0, boot TEXT, online INTEGER NOT NULL DEFAULT 0, healthy INTEGER,
  enrolled_at INTEGER NOT NULL, last_seen_at INTEGER, desired_seq INTEGER NOT NULL DEFAULT 0,
  report_seq INTEGER NOT NULL DEFAULT 0, deployment TEXT REFERENCES deployments (id)
) STRICT;
CREATE INDEX devices_by_state ON devices (state, id);

CREATE TABLE cohorts (
  name TEXT PRIMARY KEY, members TEXT NOT NULL, created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rollouts (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, plan TEXT NOT NULL, progress TEXT NOT NULL,
  next_tick_at INTEGER, revision INTEGER NOT NULL
) STRICT;
CREATE INDEX rollouts_due ON rollouts (next_tick_at) WHERE next_tick_at IS NOT NULL;

CREATE TABLE deployments (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rollout TEXT NOT NULL REFERENCES rollouts (id),
  device TEXT NOT NULL REFERENCES devices (id), cohort TEXT NOT NULL, compatible TEXT NOT NULL,
  wave INTEGER NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL, offered_at INTEGER, accepted_at INTEGER,
  decided_at INTEGER, state_at INTEGER NOT NULL, deadline_at INTEGER, overdue TEXT, error TEXT,
  revision INTEGER NOT NULL,
  UNIQUE (rollout, device),
  CHECK ((overdue IS NOT NULL) = (state = 'overdue'))
) STRICT;
CREATE INDEX deployments_by_state ON deployments (rollout, state);
CREATE INDEX deployments_by_device ON deployments (device);
CREATE INDEX deployments_planned ON deployments (rollout, wave, cohort, compatible, position) WHERE state = 'planned';
CREATE INDEX deployments_due ON deployments (rollout, deadline_at) WHERE deadline_at IS NOT NULL;

-- How many deployments of a rollout are where. The triggers move the counters in the transaction that moves the row,
-- no matter what moves it; '' stands for no overdue class, because NULLs are distinct in a key.
CREATE TABLE deployment_counts (
  rollout TEXT NOT NULL, wave INTEGER NOT NULL, state TEXT NOT NULL, overdue TEXT NOT NULL, devices INTEGER NOT NULL,
  PRIMARY KEY (rollout, wave, state, overdue)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER deployment_counted AFTER INSERT ON deployments BEGIN
  INSERT INTO deployment_counts VALUES (new.rollout, new.wave, new.state, ifnull(new.overdue, ''), 1)
    ON CONFLICT DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER deployment_recounted AFTER UPDATE OF rollout, wave, state, overdue ON deployments
WHEN old.rollout IS NOT new.rollout OR old.wave IS NOT new.wave OR old.state IS NOT new.state
  OR old.overdue IS NOT new.overdue BEGIN
  UPDATE deployment_counts SET devices = devices - 1
    WHERE rollout = old.rollout AND wave = old.wave AND state = old.state AND overdue = ifnull(old.overdue, '');
  INSERT INTO deployment_counts VALUES (new.rollout, new.wave, new.state, ifnull(new.overdue, ''), 1)
    ON CONFLICT DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER deployment_uncounted AFTER DELETE ON deployments BEGIN
  UPDATE deployment_counts SET devices = devices - 1
    WHERE rollout = old.rollout AND wave = old.wave AND state = old.state AND overdue = ifnull(old.overdue, '');
END;

-- Only the newest desired document of a device: it supersedes every older one.
CREATE TABLE desired (
  device TEXT PRIMARY KEY REFERENCES devices (id), seq INTEGER NOT NULL, instruction TEXT NOT NULL, document TEXT,
  at INTEGER NOT NULL
) STRICT;
-- AUTOINCREMENT: a number is never used twice, so finishing one twice cannot finish another.
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, effect TEXT NOT NULL) STRICT;

CREATE TABLE audit (n INTEGER PRIMARY KEY, payload TEXT NOT NULL) STRICT;
CREATE TABLE audit_devices (
  device TEXT NOT NULL, n INTEGER NOT NULL REFERENCES audit (n), PRIMARY KEY (device, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit_head (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1), size INTEGER NOT NULL, subtrees TEXT NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, '[]');
-- The log is append-only for everyone who goes through this schema.
CREATE TRIGGER audit_is_final BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
`;

const PROMOTION = `
-- The latest result of each check of a release.
CREATE TABLE release_checks (
  product TEXT NOT NULL, version TEXT NOT NULL, "check" TEXT NOT NULL, outcome TEXT NOT NULL, link TEXT,
  at INTEGER NOT NULL, by TEXT NOT NULL,
  PRIMARY KEY (product, version, "check"),
  FOREIGN KEY (product, version) REFERENCES releases (product, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE release_approvals (
  n INTEGER PRIMARY KEY, product TEXT NOT NULL, version TEXT NOT NULL, channel TEXT NOT NULL, by TEXT NOT NULL,
  note TEXT NOT NULL, at INTEGER NOT NULL,
  UNIQUE (product, version, channel, by),
  FOREIGN KEY (product, version) REFERENCES releases (product, version)
) STRICT;
CREATE INDEX rollouts_by_release ON rollouts (plan ->> 'product', plan ->> 'version');
`;

/**
 * How devices have been since they committed. `watched` is a deployment; `heard_boot` the boot of the last heartbeat.
 */
const WATCH = `
ALTER TABLE devices ADD COLUMN watched TEXT REFERENCES deployments (id);
ALTER TABLE devices ADD COLUMN watched_manifest TEXT;
ALTER TABLE devices ADD COLUMN unhealthy_since INTEGER;
ALTER TABLE devices ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN heard_boot TEXT;
CREATE INDEX devices_suspect ON devices (watched)
  WHERE (unhealthy_since IS NOT NULL OR restarts > 0 OR running_manifest <> watched_manifest);
`;

/** Who waits until when, which rollout comes first, and what a device was last told to run. */
const STEERING = `
ALTER TABLE deployments ADD COLUMN held_until INTEGER;
CREATE INDEX deployments_held ON deployments (rollout, held_until) WHERE held_until IS NOT NULL;
ALTER TABLE rollouts ADD COLUMN priority INTEGER GENERATED ALWAYS AS (ifnull(plan ->> '$.policy.priority', 50)) VIRTUAL;
ALTER TABLE rollouts ADD COLUMN state TEXT GENERATED ALWAYS AS (progress ->> 'state') VIRTUAL;
CREATE INDEX rollouts_by_state ON rollouts (state, priority);
ALTER TABLE devices ADD COLUMN expected TEXT;
ALTER TABLE devices ADD COLUMN drifted_at INTEGER;
ALTER TABLE devices ADD COLUMN drift_told_at INTEGER;
CREATE INDEX devices_drifted ON devices (id) WHERE drifted_at IS NOT NULL;
`;

/** JSON: what became of a deployment's earlier attempts. */
const RETRIES = 'ALTER TABLE deployments ADD COLUMN attempts TEXT';
/** In which state a deployment was when it was withdrawn. */
const REACHED = 'ALTER TABLE deployments ADD COLUMN reached TEXT';

const CHANGES = `
CREATE TABLE bundle_changes (
  change TEXT NOT NULL, manifest_sha256 TEXT NOT NULL REFERENCES bundles (manifest_sha256),
  PRIMARY KEY (change, manifest_sha256)
) STRICT, WITHOUT ROWID;
INSERT INTO bundle_changes
  SELECT DISTINCT change.value, manifest_sha256 FROM bundles, json_each(manifest, '$.changes') AS change;
`;

/**
 * Why a withdrawn deployment is withdrawn: what a halt took back, and nothing else, is planned again when a person
 * resumes.
 */
const WITHDRAWN_BY = 'ALTER TABLE deployments ADD COLUMN withdrawn_by TEXT';

/** What each rollout decided, and from what: see decisions.ts. `decided`: the digest of the newest one. */
const DECISIONS = `
CREATE TABLE decisions (
  rollout TEXT NOT NULL REFERENCES rollouts (id), n INTEGER NOT NULL, at INTEGER NOT NULL, sha256 TEXT NOT NULL,
  base INTEGER NOT NULL, record BLOB NOT NULL, nobody INTEGER NOT NULL, offered INTEGER NOT NULL, skipped INTEGER NOT NULL,
  withdrawn INTEGER NOT NULL, blockers TEXT NOT NULL, audit_from INTEGER NOT NULL, audit_to INTEGER NOT NULL,
  PRIMARY KEY (rollout, n)
) STRICT;
ALTER TABLE rollouts ADD COLUMN decided TEXT;
`;

/**
 * How long the server's absence excuses a deployment, how often it was offered, and the state in which the overdue ones
 * stopped, counted too.
 */
const DEADLINES = `
ALTER TABLE deployments ADD COLUMN grace_until INTEGER;
ALTER TABLE deployments ADD COLUMN offers INTEGER NOT NULL DEFAULT 0;
UPDATE deployments SET offers = 1 + ifnull(attempts ->> 'ended', 0) WHERE offered_at IS NOT NULL;
CREATE INDEX deployments_overdue ON deployments (device) WHERE state = 'overdue';
DROP TRIGGER deployment_counted;
DROP TRIGGER deployment_recounted;
DROP TRIGGER deployment_uncounted;
DROP TABLE deployment_counts;
CREATE TABLE deployment_counts (
  rollout TEXT NOT NULL, wave INTEGER NOT NULL, state TEXT NOT NULL, overdue TEXT NOT NULL, reached TEXT NOT NULL,
  devices INTEGER NOT NULL,
  PRIMARY KEY (rollout, wave, state, overdue, reached)
) STRICT, WITHOUT ROWID;
INSERT INTO deployment_counts
  SELECT rollout, wave, state, ifnull(overdue, ''), iif(overdue IS NULL, '', ifnull(reached, '')), count(*)
  FROM deployments GROUP BY 1, 2, 3, 4, 5;
CREATE TRIGGER deployment_counted AFTER INSERT ON deployments BEGIN
  INSERT INTO deployment_counts VALUES (new.rollout, new.wave, new.state, ifnull(new.overdue, ''),
      iif(new.overdue IS NULL, '', ifnull(new.reached, '')), 1)
    ON CONFLICT DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER deployment_recounted AFTER UPDATE OF rollout, wave, state, overdue, reached ON deployments
WHEN old.rollout IS NOT new.rollout OR old.wave IS NOT new.wave OR old.state IS NOT new.state
  OR old.overdue IS NOT new.overdue OR old.reached IS NOT new.reached BEGIN
  UPDATE deployment_counts SET devices = devices - 1
    WHERE rollout = old.rollout AND wave = old.wave AND state = old.state AND overdue = ifnull(old.overdue, '')
      AND reached = iif(old.overdue IS NULL, '', ifnull(old.reached, ''));
  INSERT INTO deployment_counts VALUES (new.rollout, new.wave, new.state, ifnull(new.overdue, ''),
      iif(new.overdue IS NULL, '', ifnull(new.reached, '')), 1)
    ON CONFLICT DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER deployment_uncounted AFTER DELETE ON deployments BEGIN
  UPDATE deployment_counts SET devices = devices - 1
    WHERE rollout = old.rollout AND wave = old.wave AND state = old.state AND overdue = ifnull(old.overdue, '')
      AND reached = iif(old.overdue IS NULL, '', ifnull(old.reached, ''));
END;
`;

/**
 * What a device ran when a rollout offered it another release; which rollout takes devices of which back, and who
 * cannot go back.
 */
const RECALLS = `
ALTER TABLE deployments ADD COLUMN ran_before TEXT;
ALTER TABLE rollouts ADD COLUMN recalls TEXT GENERATED ALWAYS AS (plan ->> '$.recalls') VIRTUAL;
CREATE INDEX rollouts_recalling ON rollouts (recalls) WHERE recalls IS NOT NULL;
CREATE TABLE recall_stays (
  rollout TEXT NOT NULL REFERENCES rollouts (id), device TEXT NOT NULL REFERENCES devices (id), reason TEXT NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;
`;

/**
 * Where the chunks of published artifacts are, by 32 bytes of digest, and the packs made from them. '' for a pack from
 * nothing.
 */
const TRANSFER = `
CREATE TABLE chunked (n INTEGER PRIMARY KEY, artifact TEXT NOT NULL UNIQUE, saved_at INTEGER NOT NULL) STRICT;
CREATE TABLE chunks (
  sha256 BLOB NOT NULL, n INTEGER NOT NULL, start INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (sha256, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE packs (
  to_index TEXT NOT NULL, from_index TEXT NOT NULL, level INTEGER NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
  made_at INTEGER NOT NULL, used_at INTEGER NOT NULL, PRIMARY KEY (to_index, from_index)
) STRICT, WITHOUT ROWID;
`;

/**
 * The last lines of devices that failed. `n` is the order in which they came; numbers of trimmed ones are not used
 * again.
 */
const DEVICE_LOGS = `
CREATE TABLE device_logs (
  n INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL REFERENCES devices (id), id TEXT NOT NULL,
  received_at INTEGER NOT NULL, bytes INTEGER NOT NULL, deployment TEXT, piece TEXT NOT NULL, UNIQUE (device, id)
) STRICT;
CREATE INDEX device_logs_age ON device_logs (received_at, bytes);
CREATE INDEX device_logs_of ON device_logs (device, n, bytes);
`;

/** The line of the audit log that says that the decisions before this one were pruned. */
const PRUNED = 'ALTER TABLE decisions ADD COLUMN pruned INTEGER';

/** When two devices were last seen to use the key. */
const SHARED_KEYS = 'ALTER TABLE devices ADD COLUMN key_shared_at INTEGER';

export const MIGRATIONS: readonly string[] = [
  INITIAL,
  PROMOTION,
  WATCH,
  STEERING,
  RETRIES,
  CHANGES,
  REACHED,
  WITHDRAWN_BY,
  DECISIONS,
  DEADLINES,
  RECALLS,
  TRANSFER,
  DEVICE_LOGS,
  PRUNED,
  SHARED_KEYS,
];

/** Brings the database to the newest schema; throws when it was written by a newer Sluice than this one. */
export const migrate = (database: Database.Database, migrations: readonly string[] = MIGRATIONS): void => {
  const version = Number(database.pragma('user_version', { simple: true }));
  if (version > migrations.length)
    throw new Error(
      `the database has schema ${version}, this version of Sluice knows only ${migrations.length}: ` +
        'start the newer version again, or restore the backup that was made before the upgrade',
    );
  for (const [index, step] of migrations.entries()) {
    if (index < version) continue;
    database
      .transaction(() => {
        database.exec(step);
        database.pragma(`user_version = ${index + 1}`);
      })
      .immediate();
  }
};
