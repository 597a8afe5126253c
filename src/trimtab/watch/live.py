"""live.json: what a page shows of a model in use, as one document. The watch writes it anew every 2 s, whole or not at all.

Times are seconds since 1970, UTC. LEVEL is {"value", "low", "high", "n"}: a mean or share with its 95 % interval; low and high are null
below 2 observations, value is null at n = 0. Lists are empty, never absent.

schema       "trimtab.live/1"
site         name of the site's file or of the log; site_id: 16 hex digits, the folder under TRIMTAB_HOME/watch
source       "spool" (live traffic) or "log"
started_s    when the first request that was seen ended; at_s: when the last one did; written_s: when this file was written
n_requests, n_late    requests seen; feedback, outcomes and the like that were joined to them
faults       reason -> how many, such as {"duplicate": 3, "no such request": 1}: what was passed over, and why
dry_run      true = rules note what they would do, and do nothing
detectors    {"n": streams under watch, "method": text with the stated share of false alarms}
models       [{"model", "n", "versions": [VERSION]}], busiest first
  VERSION    {"version", "n", "last_s", "signals": [SIGNAL], "slices": [SLICE], "groups": [SLICE]}
  SIGNAL     {"signal", "text", "unit", "kind", "about", "worse",
              "all": LEVEL since the watch began, "hour": LEVEL of the last 60 minutes before at_s,
              "percentiles": {"p50", "p95", "p99"} since the watch began, or null,
              "shares": label -> share of a category signal since the watch began, else {},
              "series": [{"at_s", "value", "n"}] of the last hour by 30 s, at most 120, oldest first; a gap has no point,
              "standing": [ids of alarms over all its requests]}
             for a category signal, levels and series are those of its most frequent label
  SLICE      {"by": "language" | "topic" ... | the attribute of a group, "of": its value, "n",
              "signals": signal -> LEVEL since the watch began}; `other` stands for all values beyond the most that are kept
alarms       newest first, at most 100: the fields of core.watching.Alarm, and {"text": a sentence, "severity", "stands", "ended_s",
             "ended": why}
actions      newest first, at most 100: the fields of core.watching.Action, and {"id", "model", "version"}
envelope     [{"model", "version", "covers": text, "today": LEVEL of the share outside, by day in UTC of at_s, "all": LEVEL since the watch
             began, whose low holds at every moment, "outside": [{"what", "share"}] of today, most frequent first, "text": a sentence}]
"""

SCHEMA = "trimtab.live/1"
