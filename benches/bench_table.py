"""Turns what `scripts/bench` measured into one table: minimum, median and maximum of its turns."""
import json, statistics, sys

runs = {}
for line in open(sys.argv[1]):
    run = json.loads(line)
    runs.setdefault((run["case"], run["server"]), []).append(run)
bare = {case: statistics.median(r["report"]["per_second"] for r in of) for (case, server), of in runs.items() if server == "bare"}


def spread(values, form):
    values = sorted(values)
    return " · ".join(form(v) for v in (values[0], statistics.median(values), values[-1]))


def thousands(value):
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1000:.1f} k"


print("| load | server | checks/s | of bare | p50 us | p99 us | p99.9 us | CPU us a check | script calls a check |")
print("|---|---|---|---|---|---|---|---|---|")
broken = []
for (case, server), of in runs.items():
    reports = [r["report"] for r in of]
    rate = statistics.median(r["per_second"] for r in reports)
    ceiling = bare.get(case)
    ratio = "" if server == "bare" or ceiling is None or reports[0]["rate"] else f"{rate / ceiling:.2f}"
    # A percentile is null if too few calls were measured for it.
    values = [[r["latency_us"][p] for r in reports] for p in ("p50", "p99", "p99.9")]
    latency = ["–" if None in of_runs else f"{statistics.median(of_runs):.0f}" for of_runs in values]
    cpu = spread([r["cpu_us_a_check"] for r in of], lambda v: f"{v:.2f}")
    calls = statistics.median(r["calls_a_check"] for r in of)
    print(f"| {case} | {server} | {spread([r['per_second'] for r in reports], thousands)} | {ratio} | "
          + " | ".join(latency) + f" | {cpu} | {calls:.5f} |")
    failed = sum(sum(n for n in r["failed"].values() if isinstance(n, int)) for r in reports)
    if failed:
        broken.append(f"{case} on {server}: {failed} failed, the first with {reports[0]['failed']['first']}")
    if server == "cluster-tight":
        most = max(r["most_admitted_of_a_key"] for r in reports)
        sys.stdout.flush()
        print(f"\nOf a limit of 5,000, {most} were admitted of one key at most.", file=sys.stderr)
        if most > 5000:
            broken.append(f"{most} of 5,000 were admitted")
if broken:
    sys.exit("\n".join(broken))
