"""The tables that several gateways share, in PostgreSQL: numbered steps. A released step is never edited; a change is a new one.

trimtab_state_keys      API keys, one a row; revision: grows with every change, so that who has seen one asks for what is newer
trimtab_state_spent     what a key has used on a day (days since 1970, UTC), as gateways have settled it
trimtab_state_leases    tokens of a key's day that a gateway may use without asking; gone when they expire
trimtab_state_rates     a key's bucket of requests: what is left at a time of the database's clock
trimtab_state_gateways  the last exchange of each gateway with what it was answered: asked again, it is answered again and not done twice
trimtab_state_logs      the newest signed checkpoint of each gateway's audit log

One exchange is one call of `trimtab_state_exchange`, one transaction. Of a key's day only one exchange has its turn at a time, as it
holds the row of trimtab_state_spent; rows come in the order of their keys, so that no two exchanges wait for each other in a ring.

How tokens are granted: `room` is the limit less what is settled, less the leases of other gateways, less what this one keeps. A request is
let in while room is above 0, and takes its most tokens out of it. So only one request of all gateways can cross the limit: after it there
is no room anywhere.
"""

_EXCHANGE = """
CREATE FUNCTION trimtab_state_exchange(asked JSONB) RETURNS JSONB LANGUAGE plpgsql AS $$
DECLARE
  own TEXT := asked->>'gateway'; asked_number BIGINT := (asked->>'number')::BIGINT; last RECORD; one JSONB; most JSONB; said JSONB;
  told JSONB := '[]'; rates JSONB := '[]'; of_key TEXT; of_day INTEGER; settled BIGINT; others BIGINT; room BIGINT; lent BIGINT;
  n INTEGER; spare BIGINT; per_minute DOUBLE PRECISION; had DOUBLE PRECISION; n_taken INTEGER; at_now TIMESTAMPTZ;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true);
  INSERT INTO trimtab_state_gateways VALUES (own, 0, '{}', clock_timestamp()) ON CONFLICT DO NOTHING;
  SELECT g.number, g.answer INTO last FROM trimtab_state_gateways g WHERE g.gateway = own FOR UPDATE;
  IF last.number = asked_number THEN RETURN last.answer; END IF;
  FOR one IN SELECT * FROM jsonb_array_elements(asked->'rows') LOOP
    of_key := one->>'key'; of_day := (one->>'day')::INTEGER;
    INSERT INTO trimtab_state_spent AS s VALUES (of_key, of_day, (one->>'requests')::BIGINT, (one->>'tokens')::BIGINT)
      ON CONFLICT (key_id, day) DO UPDATE SET requests = s.requests + EXCLUDED.requests, tokens = s.tokens + EXCLUDED.tokens
      RETURNING s.tokens INTO settled;
    n := 0; spare := 0; others := 0;
    IF one->>'limit' IS NOT NULL THEN
      DELETE FROM trimtab_state_leases l WHERE l.key_id = of_key AND l.day = of_day AND l.expires <= clock_timestamp();
      SELECT coalesce(sum(l.tokens), 0) INTO others FROM trimtab_state_leases l
        WHERE l.key_id = of_key AND l.day = of_day AND l.gateway <> own;
      lent := (one->>'keep')::BIGINT;
      room := (one->>'limit')::BIGINT - settled - others - lent;
      FOR most IN SELECT * FROM jsonb_array_elements(one->'asking') LOOP
        EXIT WHEN room <= 0;
        n := n + 1; room := room - most::TEXT::BIGINT; lent := lent + most::TEXT::BIGINT;
      END LOOP;
      spare := greatest(0, least((one->>'spare')::BIGINT, room / 16));
      lent := lent + spare;
      IF lent > 0 THEN
        INSERT INTO trimtab_state_leases AS l
          VALUES (of_key, of_day, own, lent, clock_timestamp() + make_interval(secs => (asked->>'lease_s')::DOUBLE PRECISION))
          ON CONFLICT (key_id, day, gateway) DO UPDATE SET tokens = EXCLUDED.tokens, expires = EXCLUDED.expires;
      ELSE
        DELETE FROM trimtab_state_leases l WHERE l.key_id = of_key AND l.day = of_day AND l.gateway = own;
      END IF;
    END IF;
    told := told || jsonb_build_object('granted', n, 'spare', spare, 'spent', settled, 'others', others);
  END LOOP;
  FOR one IN SELECT * FROM jsonb_array_elements(asked->'rates') LOOP
    per_minute := (one->>'rpm')::DOUBLE PRECISION;
    INSERT INTO trimtab_state_rates VALUES (one->>'key', per_minute, clock_timestamp()) ON CONFLICT DO NOTHING;
    SELECT * INTO last FROM trimtab_state_rates r WHERE r.key_id = one->>'key' FOR UPDATE;
    at_now := clock_timestamp();
    had := greatest(0, extract(epoch FROM at_now - last.at)) * per_minute / 60 + last.requests + (one->>'back')::DOUBLE PRECISION;
    had := least(per_minute, had);
    n_taken := least((one->>'take')::INTEGER, floor(had)::INTEGER);
    UPDATE trimtab_state_rates r SET requests = had - n_taken, at = greatest(at_now, last.at) WHERE r.key_id = one->>'key';
    rates := rates || jsonb_build_object('taken', n_taken, 'left', had - n_taken);
  END LOOP;
  IF asked->'log' IS NOT NULL AND jsonb_typeof(asked->'log') = 'object' THEN
    INSERT INTO trimtab_state_logs AS k VALUES (asked->'log'->>'log', asked->>'host', asked->'log', clock_timestamp())
      ON CONFLICT (log) DO UPDATE SET host = EXCLUDED.host, checkpoint = EXCLUDED.checkpoint, seen = EXCLUDED.seen
      WHERE (k.checkpoint->>'size')::BIGINT <= (EXCLUDED.checkpoint->>'size')::BIGINT;
  END IF;
  said := jsonb_build_object('rows', told, 'rates', rates);
  UPDATE trimtab_state_gateways g SET number = asked_number, answer = said, seen = clock_timestamp()
    WHERE g.gateway = own;
  RETURN said;
END $$
"""

_STEP_1 = (
    "CREATE TABLE trimtab_state_keys (id TEXT PRIMARY KEY, revision BIGINT NOT NULL UNIQUE, body JSONB NOT NULL)",
    "CREATE TABLE trimtab_state_spent (key_id TEXT NOT NULL, day INTEGER NOT NULL, requests BIGINT NOT NULL, tokens BIGINT NOT NULL,"
    " PRIMARY KEY (key_id, day))",
    "CREATE TABLE trimtab_state_leases (key_id TEXT NOT NULL, day INTEGER NOT NULL, gateway TEXT NOT NULL, tokens BIGINT NOT NULL,"
    " expires TIMESTAMPTZ NOT NULL, PRIMARY KEY (key_id, day, gateway))",
    "CREATE TABLE trimtab_state_rates (key_id TEXT PRIMARY KEY, requests DOUBLE PRECISION NOT NULL, at TIMESTAMPTZ NOT NULL)",
    "CREATE TABLE trimtab_state_gateways (gateway TEXT PRIMARY KEY, number BIGINT NOT NULL, answer JSONB NOT NULL,"
    " seen TIMESTAMPTZ NOT NULL)",
    "CREATE TABLE trimtab_state_logs (log TEXT PRIMARY KEY, host TEXT NOT NULL, checkpoint JSONB NOT NULL, seen TIMESTAMPTZ NOT NULL)",
    _EXCHANGE,
)

STEPS: tuple[tuple[str, ...], ...] = (_STEP_1,)
