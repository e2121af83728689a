-- The ledger's schema, version 1. {s} is the schema's name, quoted; {c} the channel of its notifications.
--
-- Rules that the functions below rely on:
--   * One statement of a gateway is one transaction: no state of the session, no transaction across round trips.
--   * An effect stands in at most one place: in `live` while it is open or unknown, in `settled` afterwards. It moves
--     in one transaction, so that a reader (one statement, one snapshot) sees it in one of them.
--   * What was released leaves a row in `settled` whose time is over, so that a claim that waited for the release sees
--     which fence came before.
--   * Times are milliseconds since the Unix epoch on this server's clock; 9223372036854775807 is never.

CREATE TABLE {s}.meta (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL,
  secret bytea NOT NULL CHECK (length(secret) = 32),
  -- The latest time at which anything was dropped: a clock behind it is not believed.
  high_water bigint NOT NULL DEFAULT 0,
  -- Written when a commit must be waited for that changes nothing else.
  touched bigint NOT NULL DEFAULT 0
);

CREATE TABLE {s}.contracts (scope text PRIMARY KEY, terms bytea NOT NULL);

CREATE TABLE {s}.audit (number bigint PRIMARY KEY, line bytea NOT NULL);

-- Fences: the timeline of the server (it rises with each promotion) above 40 bits, a count below.
CREATE SEQUENCE {s}.fence;

-- Open and unknown effects.
CREATE TABLE {s}.live (
  id uuid PRIMARY KEY,
  fence bigint NOT NULL,
  -- Rises with every write; (fence, revision) names one state of one claim.
  revision integer NOT NULL DEFAULT 0,
  -- A random number of the call that made the claim: who lost its answer finds its own again.
  token bigint NOT NULL,
  claimed_at bigint NOT NULL,
  -- The end of the lease; null: unknown.
  lease_until bigint,
  keep_ms bigint NOT NULL,
  marker_ms bigint NOT NULL,
  -- Somebody waits for the conclusion at another gateway.
  awaited boolean NOT NULL DEFAULT false,
  -- The record, in which the columns above override what it says of fence and times.
  record bytea NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 1000000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 1000000);

-- Everything else, in partitions by the time at which a row has nothing more to say there: dropped, never deleted.
CREATE TABLE {s}.settled (
  bucket integer NOT NULL,
  id uuid NOT NULL,
  fence bigint NOT NULL,
  claimed_at bigint NOT NULL,
  at bigint NOT NULL,
  until bigint NOT NULL,
  marker_until bigint NOT NULL,
  -- Attempts to add to those of the record.
  attempts integer NOT NULL,
  -- As in `live`; empty: it was released.
  record bytea NOT NULL,
  -- The answer; null: only the marker is left.
  outcome bytea
) PARTITION BY LIST (bucket);
CREATE INDEX settled_id ON {s}.settled (id);

-- How long windows and markers last here: their next partitions are made ahead of time.
CREATE TABLE {s}.lengths (ms bigint PRIMARY KEY);
INSERT INTO {s}.lengths VALUES (86400000);

CREATE FUNCTION {s}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE FUNCTION {s}.plus(a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN a > 9223372036854775807 - b THEN 9223372036854775807 ELSE a + b END $$;

-- The partition of what ends at t after lasting for a length: days, 8 days or 64 days, so that few partitions stand at
-- any time, and nothing stays much longer than it should.
CREATE FUNCTION {s}.bucket(t bigint, length bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT (CASE WHEN t = 9223372036854775807 THEN 0
                WHEN length <= 345600000 THEN 10000000 + t / 86400000
                WHEN length <= 3456000000 THEN 20000000 + t / 691200000
                ELSE 30000000 + t / 5529600000 END)::integer $$;

-- When everything in a partition has ended.
CREATE FUNCTION {s}.bucket_end(b integer) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN b = 0 THEN 9223372036854775807
               WHEN b < 20000000 THEN (b - 10000000 + 1)::bigint * 86400000
               WHEN b < 30000000 THEN (b - 20000000 + 1)::bigint * 691200000
               ELSE (b - 30000000 + 1)::bigint * 5529600000 END $$;

-- The store's clock, if this server may decide: a primary, at the isolation level that the functions are written for,
-- that flushes what it commits, before the call is too old to be carried out.
CREATE FUNCTION {s}.guard(not_after bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  t bigint := {s}.now_ms();
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'this server is a standby' USING ERRCODE = '25006';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'default_transaction_isolation must be read committed' USING ERRCODE = 'SM002';
  END IF;
  IF current_setting('synchronous_commit') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit must not be off' USING ERRCODE = 'SM002';
  END IF;
  IF t > not_after THEN
    RAISE EXCEPTION 'the call came too late' USING ERRCODE = 'SM001';
  END IF;
  RETURN t;
END $$;

CREATE FUNCTION {s}.tell(ids uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  -- A payload has less than 8000 bytes.
  FOR i IN 0 .. (cardinality(ids) - 1) / 200 LOOP
    PERFORM pg_notify({c}, array_to_string(ids[i * 200 + 1 : i * 200 + 200], ','));
  END LOOP;
END $$;

-- Makes the partitions that settlements will need from now on for an hour.
CREATE FUNCTION {s}.make_room(lengths bigint[]) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  t bigint := {s}.now_ms();
  b integer;
  made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended({c}, 1));
  INSERT INTO {s}.lengths SELECT DISTINCT unnest(lengths) ON CONFLICT DO NOTHING;
  FOR b IN
    SELECT DISTINCT {s}.bucket({s}.plus(t + ahead, l.ms), l.ms) FROM {s}.lengths l, (VALUES (0), (3600000)) a(ahead)
  LOOP
    made := made + {s}.make_bucket(b);
  END LOOP;
  RETURN made;
END $$;

CREATE FUNCTION {s}.make_bucket(b integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  name text := 'settled_' || b;
BEGIN
  IF to_regclass(format('%s.%I', {q}, name)) IS NOT NULL THEN
    RETURN 0;
  END IF;
  -- Attached rather than made as a partition: that locks nobody out.
  EXECUTE format('CREATE TABLE {s}.%I (LIKE {s}.settled INCLUDING ALL)', name);
  EXECUTE format('ALTER TABLE {s}.%I ADD CHECK (bucket = %s)', name, b);
  EXECUTE format('ALTER TABLE {s}.settled ATTACH PARTITION {s}.%I FOR VALUES IN (%s)', name, b);
  RETURN 1;
END $$;

-- Carries claims of absent keys and settlements by owners out, in one transaction. Claims come first: they wait only for
-- transactions that settle, and those wait for none that claim, so that no two of these can wait for each other.
CREATE FUNCTION {s}.turn(
  not_after bigint,
  claim_ids uuid[], claim_tokens bigint[], claim_leases bigint[], claim_keeps bigint[], claim_markers bigint[],
  claim_records bytea[],
  settle_ids uuid[], settle_fences bigint[], settle_attempts integer[], settle_outcomes bytea[],
  OUT now_ms bigint, OUT taken uuid[], OUT fences bigint[],
  OUT concluded uuid[], OUT claimed_ats bigint[], OUT records bytea[]
) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  t bigint := {s}.guard(not_after);
  awaited_ids uuid[];
BEGIN
  now_ms := t;
  IF cardinality(claim_ids) > 0 THEN
    WITH made AS (
      INSERT INTO {s}.live (id, fence, token, claimed_at, lease_until, keep_ms, marker_ms, record)
      SELECT a.id, nextval('{s}.fence'), a.token, t, {s}.plus(t, a.lease), a.keep, a.marker, a.record
      FROM unnest(claim_ids, claim_tokens, claim_leases, claim_keeps, claim_markers, claim_records)
        AS a(id, token, lease, keep, marker, record)
      ON CONFLICT (id) DO NOTHING
      RETURNING id, fence
    )
    SELECT array_agg(made.id), array_agg(made.fence) INTO taken, fences FROM made;
    -- A new statement, a new snapshot: it sees every conclusion that the insertions above may have waited for.
    IF EXISTS (SELECT 1 FROM {s}.settled s WHERE s.id = ANY (taken)) THEN
      DELETE FROM {s}.live l WHERE l.id = ANY (taken)
        AND EXISTS (SELECT 1 FROM {s}.settled s WHERE s.id = l.id AND s.marker_until > t);
      UPDATE {s}.live l SET fence = nextval('{s}.fence') WHERE l.id = ANY (taken)
        AND EXISTS (SELECT 1 FROM {s}.settled s WHERE s.id = l.id AND s.fence > l.fence);
      SELECT array_agg(l.id ORDER BY l.id), array_agg(l.fence ORDER BY l.id) INTO taken, fences
        FROM {s}.live l WHERE l.id = ANY (taken);
    END IF;
  END IF;
  IF cardinality(settle_ids) > 0 THEN
    WITH gone AS (
      DELETE FROM {s}.live l
      USING unnest(settle_ids, settle_fences, settle_attempts, settle_outcomes) AS a(id, fence, attempts, outcome)
      WHERE l.id = a.id AND l.fence = a.fence AND l.lease_until > t
      RETURNING l.id, l.fence, l.claimed_at, {s}.plus(t, l.keep_ms) AS until, l.keep_ms, l.marker_ms, l.awaited,
        l.record, a.attempts, a.outcome
    ), put AS (
      INSERT INTO {s}.settled (bucket, id, fence, claimed_at, at, until, marker_until, attempts, record, outcome)
      SELECT {s}.bucket(g.until, g.keep_ms), g.id, g.fence, g.claimed_at, t, g.until, {s}.plus(g.until, g.marker_ms),
        g.attempts, g.record, g.outcome
      FROM gone g
    )
    SELECT array_agg(g.id), array_agg(g.claimed_at), array_agg(g.record), array_agg(g.id) FILTER (WHERE g.awaited)
      INTO concluded, claimed_ats, records, awaited_ids FROM gone g;
    IF awaited_ids IS NOT NULL THEN
      PERFORM {s}.tell(awaited_ids);
    END IF;
  END IF;
END $$;

-- What stands under ids, after a first row with the store's clock as claimed_at. Those to watch are marked: whoever
-- concludes them tells all gateways. (A lost mark costs a waiter some time, so it is not flushed.)
CREATE FUNCTION {s}.look(ids uuid[], watched uuid[]) RETURNS TABLE (
  id uuid, is_live boolean, fence bigint, revision integer, token bigint, claimed_at bigint, lease_until bigint,
  at bigint, until bigint, marker_until bigint, attempts integer, record bytea, outcome bytea
) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  t bigint := {s}.guard(9223372036854775807);
BEGIN
  IF cardinality(watched) > 0 THEN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE {s}.live l SET awaited = true WHERE l.id = ANY (watched) AND NOT l.awaited;
  END IF;
  RETURN QUERY
    SELECT NULL::uuid, NULL::boolean, NULL::bigint, NULL::integer, NULL::bigint, t, NULL::bigint, NULL::bigint,
      NULL::bigint, NULL::bigint, NULL::integer, NULL::bytea, NULL::bytea
    UNION ALL
    SELECT l.id, true, l.fence, l.revision, l.token, l.claimed_at, l.lease_until, NULL, NULL, NULL, 0, l.record, NULL
      FROM {s}.live l WHERE l.id = ANY (ids)
    UNION ALL
    SELECT s.id, false, s.fence, NULL, NULL, s.claimed_at, NULL, s.at, s.until, s.marker_until, s.attempts, s.record,
      s.outcome
      FROM {s}.settled s WHERE s.id = ANY (ids);
END $$;

-- Writes what was decided elsewhere, each only if the effect still is what it was decided on: (fence, revision), and no
-- later than the decision holds. Actions: 0 note, 1 put, 2 put under a new fence, 3 settle, 4 release, 5 touch, 6 import
-- from another ledger.
CREATE FUNCTION {s}.write(
  not_after bigint, ids uuid[], actions integer[], old_fences bigint[], revisions integer[], holds_until bigint[],
  tokens bigint[], leases_until bigint[], ats bigint[], untils bigint[], markers_until bigint[],
  new_records bytea[], new_outcomes bytea[], audits bytea[],
  imported_fences bigint[], claimed_ats bigint[], keeps bigint[], markers bigint[],
  OUT now_ms bigint, OUT done boolean[], OUT new_fences bigint[]
) LANGUAGE plpgsql VOLATILE
-- What cannot do without a sequential scan (a sequence) looks dear enough to be compiled, which takes far longer.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  t bigint := {s}.guard(not_after);
  fence_given bigint;
  b integer;
  gone record;
  was_awaited boolean;
  new_fence bigint;
  told uuid[] := '{}';
BEGIN
  now_ms := t;
  -- Numbers of audit lines must become visible in their order.
  IF num_nonnulls(VARIADIC audits) > 0 THEN
    LOCK TABLE {s}.audit IN SHARE ROW EXCLUSIVE MODE;
  END IF;
  FOR i IN 1 .. cardinality(ids) LOOP
    new_fence := NULL;
    was_awaited := false;
    done[i] := t < holds_until[i];
    CONTINUE WHEN NOT done[i];
    CASE actions[i]
    WHEN 0 THEN
      NULL;
    WHEN 1, 2 THEN
      UPDATE {s}.live l SET
          fence = CASE actions[i] WHEN 2 THEN nextval('{s}.fence') ELSE l.fence END,
          revision = l.revision + 1,
          token = coalesce(tokens[i], l.token),
          lease_until = leases_until[i],
          record = new_records[i]
        WHERE l.id = ids[i] AND l.fence = old_fences[i] AND l.revision = revisions[i]
        RETURNING l.fence, l.awaited AND l.lease_until IS NULL INTO new_fence, was_awaited;
      done[i] := FOUND;
    WHEN 3, 4 THEN
      DELETE FROM {s}.live l WHERE l.id = ids[i] AND l.fence = old_fences[i] AND l.revision = revisions[i]
        RETURNING * INTO gone;
      done[i] := FOUND;
      IF FOUND THEN
        was_awaited := gone.awaited;
        IF actions[i] = 3 THEN
          INSERT INTO {s}.settled (bucket, id, fence, claimed_at, at, until, marker_until, attempts, record, outcome)
            VALUES ({s}.bucket(untils[i], gone.keep_ms), ids[i], gone.fence, gone.claimed_at, ats[i], untils[i],
              markers_until[i], 0, new_records[i], new_outcomes[i]);
        ELSE
          -- A trace of its fence, whose time is over from the beginning. It stays as long as a claim may wait for this
          -- transaction, and much longer.
          INSERT INTO {s}.settled (bucket, id, fence, claimed_at, at, until, marker_until, attempts, record)
            VALUES ({s}.bucket(t + 86400000, 86400000), ids[i], gone.fence, gone.claimed_at, t, t, t, 0, '');
        END IF;
      END IF;
    WHEN 6 THEN
      DELETE FROM {s}.live l WHERE l.id = ids[i] AND l.fence = old_fences[i] AND l.revision = revisions[i]
        RETURNING * INTO gone;
      done[i] := FOUND OR (revisions[i] < 0 AND NOT EXISTS (SELECT 1 FROM {s}.live l WHERE l.id = ids[i]));
      CONTINUE WHEN NOT done[i];
      IF ats[i] IS NULL THEN
        INSERT INTO {s}.live (id, fence, token, claimed_at, lease_until, keep_ms, marker_ms, record)
          VALUES (ids[i], imported_fences[i], 0, claimed_ats[i], leases_until[i], keeps[i], markers[i], new_records[i])
          ON CONFLICT (id) DO NOTHING;
        done[i] := FOUND;
      ELSE
        b := CASE WHEN new_outcomes[i] IS NULL THEN {s}.bucket(markers_until[i], markers[i])
                  ELSE {s}.bucket(untils[i], keeps[i]) END;
        IF to_regclass(format('%s.%I', {q}, 'settled_' || b)) IS NULL THEN
          PERFORM pg_advisory_xact_lock(hashtextextended({c}, 1));
          PERFORM {s}.make_bucket(b);
        END IF;
        INSERT INTO {s}.settled (bucket, id, fence, claimed_at, at, until, marker_until, attempts, record, outcome)
          VALUES (b, ids[i], imported_fences[i], claimed_ats[i], ats[i], untils[i], markers_until[i], 0,
            new_records[i], new_outcomes[i]);
      END IF;
      IF done[i] AND fence_given IS NULL THEN
        SELECT f.last_value INTO fence_given FROM {s}.fence f;
      END IF;
      IF done[i] AND imported_fences[i] > fence_given THEN
        PERFORM pg_advisory_xact_lock(hashtextextended({c}, 3));
        SELECT setval('{s}.fence', greatest(f.last_value, imported_fences[i])) INTO fence_given FROM {s}.fence f;
      END IF;
    ELSE
      UPDATE {s}.meta SET touched = touched + 1;
    END CASE;
    new_fences[i] := new_fence;
    IF done[i] AND audits[i] IS NOT NULL THEN
      INSERT INTO {s}.audit SELECT coalesce(max(a.number), 0) + 1, audits[i] FROM {s}.audit a;
    END IF;
    IF done[i] AND was_awaited THEN
      told := told || ids[i];
    END IF;
  END LOOP;
  IF cardinality(told) > 0 THEN
    PERFORM {s}.tell(told);
  END IF;
END $$;

-- Keeps contracts if those that stand are those that were compared (null: none). Returns whether.
CREATE FUNCTION {s}.agree(scopes text[], held bytea[], asked bytea[], audits bytea[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM {s}.guard(9223372036854775807);
  LOCK TABLE {s}.contracts, {s}.audit IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (
    SELECT 1 FROM unnest(scopes, held) AS a(scope, terms) LEFT JOIN {s}.contracts c USING (scope)
    WHERE c.terms IS DISTINCT FROM a.terms
  ) THEN
    RETURN false;
  END IF;
  INSERT INTO {s}.contracts SELECT a.scope, a.terms FROM unnest(scopes, asked) AS a(scope, terms)
    ON CONFLICT (scope) DO UPDATE SET terms = excluded.terms WHERE contracts.terms <> excluded.terms;
  INSERT INTO {s}.audit SELECT (SELECT coalesce(max(a.number), 0) FROM {s}.audit a) + l.n, l.line
    FROM unnest(audits) WITH ORDINALITY AS l(line, n);
  RETURN true;
END $$;

-- Drops one partition whose time is over, after moving the markers that outlast it. Two clocks must agree that it is:
-- this server's and the gateway's. Returns how many were dropped, null while another gateway is at it, -1 when no clock
-- is believed.
CREATE FUNCTION {s}.sweep(gateway_now bigint) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  t bigint := {s}.guard(9223372036854775807);
  ended integer[];
  b integer;
  name text;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended({c}, 2)) THEN
    RETURN NULL;
  END IF;
  IF abs(t - gateway_now) > 3600000 OR t < (SELECT m.high_water FROM {s}.meta m) THEN
    RETURN -1;
  END IF;
  SELECT array_agg(e.b ORDER BY {s}.bucket_end(e.b)) INTO ended FROM (
    SELECT substr(c.relname, 9)::integer AS b FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '{s}.settled'::regclass
  ) e WHERE {s}.bucket_end(e.b) <= t;
  IF ended IS NULL THEN
    RETURN 0;
  END IF;
  name := format('{s}.%I', 'settled_' || ended[1]);
  FOR b IN EXECUTE format(
    'SELECT DISTINCT {s}.bucket(marker_until, marker_until - until) FROM %s WHERE marker_until > $1', name) USING t
  LOOP
    PERFORM {s}.make_bucket(b);
  END LOOP;
  EXECUTE format(
    'INSERT INTO {s}.settled (bucket, id, fence, claimed_at, at, until, marker_until, attempts, record)
     SELECT {s}.bucket(marker_until, marker_until - until), id, fence, claimed_at, at, until, marker_until, attempts,
       record FROM %s WHERE marker_until > $1', name) USING t;
  -- Whoever reads waits for this lock, so it is waited for only shortly; next time it may be free.
  PERFORM set_config('lock_timeout', '1s', true);
  EXECUTE format('DROP TABLE %s', name);
  UPDATE {s}.meta SET high_water = greatest(high_water, t);
  RETURN 1;
END $$;

-- Every connection begins with this: whether the server may decide, its clock, and its timeline. After a promotion fences
-- go on above all that were given before, also above those that the former primary did not pass on.
CREATE FUNCTION {s}.enter(OUT now_ms bigint, OUT timeline bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  lowest bigint;
BEGIN
  now_ms := {s}.guard(9223372036854775807);
  timeline := ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint;
  lowest := timeline << 40;
  IF (SELECT last_value FROM {s}.fence) < lowest THEN
    PERFORM pg_advisory_xact_lock(hashtextextended({c}, 3));
    IF (SELECT last_value FROM {s}.fence) < lowest THEN
      PERFORM setval('{s}.fence', lowest);
    END IF;
  END IF;
  PERFORM {s}.beat();
END $$;

-- The commit of this is waited for, and with it everything that is visible here: also what was written before the server
-- was killed and had not reached its standby. A former primary, whose standby was promoted, does not come to an end.
CREATE FUNCTION {s}.beat() RETURNS void LANGUAGE sql VOLATILE AS
$$ SELECT pg_logical_emit_message(true, 'semel', '') $$;
