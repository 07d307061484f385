//! Reports one run: as text with its trace and pictures, or as JSON.

use serde_json::{Value, json};

use super::super::output;
use simulations::plot::{self, BusyCounter, Level, highest};
use simulations::run::Run;

/// Returns the run as text.
pub fn text(run: &Run) -> String {
    let trace = if run.trace.is_empty() { String::new() } else { format!("\n{}", run.trace) };
    let mut text = format!("{}\n{trace}{}\n", run.plan, plot::text(run));
    for violation in &run.violations {
        text += &format!("{} {violation}\n", output::word("broken", false));
    }
    if run.violations.is_empty() {
        let checks = run.history.checks.len();
        text += &format!("{}: {checks} checks, all promises kept\n", output::word("good", true));
    }
    text
}

/// Returns the run as JSON.
pub fn json(run: &Run) -> Value {
    let violations: Vec<_> = run
        .violations
        .iter()
        .map(|broken| json!({ "promise": broken.promise, "at_us": broken.at, "text": broken.text }))
        .collect();
    let faults: Vec<_> = run
        .plan
        .faults
        .iter()
        .map(|fault| {
            json!({
                "from_us": fault.begin, "to_us": fault.end, "region": fault.region.0, "fault": fault.kind.to_string(),
                "between_regions": fault.kind.is_between_regions(),
            })
        })
        .collect();
    let counters: Vec<_> = plot::busiest(run).iter().map(counter).collect();
    let windows: Vec<_> = run
        .window_totals()
        .iter()
        .map(|total| json!({ "limit": total.quota, "admitted": total.admitted, "bound": total.bound() }))
        .collect();
    json!({
        "scenario": run.plan.scenario.name(), "seed": run.plan.seed, "plan": run.plan.to_string(), "story": run.trace,
        "checks": run.history.checks.len(), "violations": violations, "regions": regions(run), "counters": counters,
        "windows": windows, "faults": faults,
    })
}

fn regions(run: &Run) -> Vec<Value> {
    let sums = run.region_sums();
    sums.iter()
        .map(|sums| {
            json!({
                "region": sums.region.0, "checks": sums.checks, "allowed": sums.allowed, "denied": sums.denied,
                "without_the_store": sums.degraded, "partitioned": sums.partitioned,
            })
        })
        .collect()
}

/// The hits of a counter against its limit. The counters of a limit that regions share are one.
fn counter(counter: &BusyCounter<'_>) -> Value {
    let limit: Vec<_> = counter.allowed.iter().map(|(at, hits)| json!({ "from_us": at, "hits": hits })).collect();
    let by_region: Vec<_> = counter
        .by_region
        .iter()
        .map(|(region, levels)| json!({ "region": region.0, "most_hits_at_once": highest(levels) }))
        .collect();
    let levels = |levels: &[Level]| levels.iter().map(|level| json!([level.at, level.hits])).collect::<Vec<_>>();
    let rights: Vec<_> =
        counter.rights.iter().map(|(region, of)| json!({ "region": region.0, "left_at_us": levels(of) })).collect();
    json!({
        "counter": counter.title, "limit": limit, "most_hits_at_once": highest(&counter.levels),
        "by_region": by_region, "rights": rights,
    })
}
