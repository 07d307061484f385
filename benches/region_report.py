"""Turns what `benches/region` measured into one table."""
import json, statistics, sys

rows = {}
for line in open(sys.argv[1]):
    name, text = line.split("\t", 1)
    rows.setdefault(name, []).append(json.loads(text))
bare = {keys: statistics.median(r["per_second"] for r in rows[f"bare {keys}"]) for keys in ("hot", "uniform")}
print(f"{'case':<34} {'checks/s':>26} {'of bare':>8} {'calls/check':>12} {'commands in scripts':>20}")
for name, runs in rows.items():
    rates = sorted(r["per_second"] for r in runs)
    median = statistics.median(rates)
    ratio = median / bare["hot" if " hot" in name else "uniform"]
    calls = statistics.median(r.get("calls", 0) / r["requests"] for r in runs)
    inner = statistics.median(r.get("inner", 0) / r["requests"] for r in runs)
    failed = sum(r["failed"] for r in runs)
    print(f"{name:<34} {rates[0]:>8.0f} {median:>8.0f} {rates[-1]:>8.0f} {ratio:>8.3f} {calls:>12.5f} {inner:>20.3f}"
          + (f"  {failed} FAILED" if failed else ""))
