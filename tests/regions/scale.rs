//! What gossip of many active keys costs: three regions that count every check together, beside the same checks that
//! each region counts by itself.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::hops::delay_ms;
use crate::support::node::{Node, tidegate};
use crate::support::servers::wait_for;
use crate::support::wait::elapsed;
use crate::world::{Setup, World};

const KEYS: u32 = 100_000;
const SECONDS: u64 = 20;

/// A limit of all three regions together, and in another domain a third of it for each region by itself. The load is
/// equal in all regions, so both deny about the same checks.
fn rules(hits: u64, window: &str) -> String {
    let limit = |domain: &str| {
        let mut limit = json!({ "name": domain, "per": ["user"], "limit": hits / 3, "window": window,
            "algorithm": "fixed_window" });
        if domain == "global" {
            limit["limit"] = hits.into();
            limit["scope"] = "global".into();
            limit["global"] = json!({ "strategy": "gossip" });
        }
        json!({ "domain": domain, "limits": [limit] })
    };
    let domains = ["region", "global"].map(limit);
    json!({ "version": 1, "domains": domains }).to_string()
}

/// The seconds of processor time that a process has used.
fn processor_s(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let ticks = |at: usize| fields.split(' ').nth(at).unwrap().parse::<f64>().unwrap();
    // Linux counts hundredths of a second, in the fields 14 and 15 of proc(5).
    (ticks(11) + ticks(12)) / 100.0
}

/// Numbers that only grow, over all regions.
#[derive(Clone, Copy, Debug)]
struct Counts {
    nodes_s: f64,
    stores_s: f64,
    bytes: f64,
    messages: f64,
    failed: f64,
    reports: f64,
    items: f64,
}

impl Counts {
    fn now(world: &World) -> Self {
        let sum = |of: &dyn Fn(&Node) -> f64| (0..3).map(|region| of(world.node(region))).sum::<f64>();
        let metric = |name: &str| sum(&|node| node.metric(name));
        Self {
            nodes_s: sum(&|node| processor_s(node.child.id())),
            stores_s: world.regions.iter().map(|region| processor_s(region.redis.server.pid())).sum(),
            bytes: metric("tidegate_gossip_bytes_total{direction=\"sent\"} "),
            messages: metric("tidegate_gossip_messages_total{outcome=\"heard\"} "),
            failed: metric("tidegate_gossip_messages_total{outcome=\"failed\"} "),
            reports: metric("tidegate_gossip_reports_total{direction=\"received\"} "),
            items: metric("tidegate_store_items_total "),
        }
    }
}

/// Keys whose newest count some region is not told.
fn behind(world: &World) -> f64 {
    let of = |region: usize| {
        let metrics = world.node(region).get("/metrics").body;
        let lines = metrics.lines().filter(|line| line.starts_with("tidegate_region_behind_keys{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    (0..3).map(of).sum()
}

/// Loads all regions at once. Returns the checks per second of all regions together, and the median and the 99th
/// percentile of the time of a check in each region, in milliseconds.
fn load(world: &World, domain: &str, keys: &str, rate: Option<u32>) -> (f64, Vec<[f64; 2]>) {
    let start = |region: usize| {
        let address = format!("grpc://{}", world.node(region).grpc);
        let (seconds, seed) = (format!("{SECONDS}s"), (region + 1).to_string());
        let mut command = tidegate(&[]);
        command.args(["bench", "--addr", &address, "--domain", domain, "--keys", keys, "--duration", &seconds]);
        command.args(["--seed", &seed, "--connections", "4", "--output", "json"]);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..3).map(start).collect();
    let report = |child: std::process::Child| -> Value {
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
    };
    let reports: Vec<Value> = running.into_iter().map(report).collect();
    let sum = reports.iter().map(|report| report["per_second"].as_f64().unwrap()).sum();
    let times =
        reports.iter().map(|report| ["p50", "p99"].map(|part| report["latency_us"][part].as_f64().unwrap() / 1e3));
    (sum, times.collect())
}

#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
#[ignore = "a measurement of some minutes, of a release build that TIDEGATE_PROGRAM names: see docs/regions.md"]
fn many_active_keys() {
    let text = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.to_owned());
    let keys = format!("{}:{KEYS}", text("KEYS", "uniform"));
    let number = |name: &str, or: f64| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let rate = Some(number("RATE", 0.0) as u32).filter(|rate| *rate > 0);
    let setup = Setup {
        regions: 3,
        interval: "100ms",
        partition_after: "2s",
        floor: number("FLOOR", 0.0),
        delay_ms,
        ..Setup::new(rules(number("LIMIT", 100_000.0) as u64, &text("WINDOW", "1d")))
    };
    let world = World::start(&setup);
    println!(
        "| scope | checks/s | nodes, cores | stores, cores | node, µs/check | sent, kB/s | messages/s | failed | reports/s | \
         items/s | behind at the end | told after | p50 and p99, ms |"
    );
    let mut ratios = Vec::new();
    for _ in 0..number("TURNS", 3.0) as usize {
        let mut each = Vec::new();
        for domain in ["region", "global"] {
            let (before, start) = (Counts::now(&world), elapsed());
            let (per_second, times) = load(&world, domain, &keys, rate);
            let (after, seconds) = (Counts::now(&world), (elapsed() - start).as_secs_f64());
            let behind_at_end = behind(&world);
            let stopped = elapsed();
            wait_for("every key to be told", || (behind(&world) == 0.0).then_some(()));
            let told_after = elapsed() - stopped;
            let per_second_of = |of: fn(&Counts) -> f64| (of(&after) - of(&before)) / seconds;
            println!(
                "| {domain} | {per_second:.0} | {:.2} | {:.2} | {:.1} | {:.0} | {:.1} | {} | {:.0} | {:.0} | {behind_at_end} | \
                 {told_after:.2?} | {times:.1?} |",
                per_second_of(|c| c.nodes_s),
                per_second_of(|c| c.stores_s),
                1e6 * per_second_of(|c| c.nodes_s) / per_second,
                per_second_of(|c| c.bytes) / 1000.0,
                per_second_of(|c| c.messages),
                after.failed - before.failed,
                per_second_of(|c| c.reports),
                per_second_of(|c| c.items),
            );
            each.push(per_second);
        }
        ratios.push(each[1] / each[0]);
    }
    println!("checks/s, global ÷ region: {ratios:.2?}");
}
