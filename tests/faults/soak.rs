//! A soak test: mixed load for a quarter of an hour, with a fault every half minute.
//!
//! `scripts/soak` runs it. `TIDEGATE_SOAK` is its duration in seconds. `TIDEGATE_SEED` is the number of the first
//! fault.

use std::time::Duration;

use crate::clients::{DrillCheck, now};
use crate::cluster::{changed_password, configure, primaries, replica};
use crate::drill::{Fault, MAX_WAIT_WITH_STOPPED_NODE_MS, pause};
use crate::node::wait_for;
use crate::region::{NODES, Region};
use crate::servers::{Cluster, redis_cli};
use crate::verdict::{admitted, is_abnormal, promised, ratio};

/// The time between two faults in seconds.
const FAULT_INTERVAL: u64 = 30;
/// The time after which users get new names, so that not all limits are used up.
const RENAME_EVERY: Duration = Duration::from_secs(5);
/// The maximum growth of memory between the second fifth and the last, in bytes. Keys stay for a while after their last
/// check.
const MAX_GROWTH: f64 = 32e6;

/// Returns the number in an environment variable, or the default.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns fault `number` modulo ten, at one of the primaries.
fn fault(redis: &Cluster, number: u64) -> Fault<'_> {
    let all = primaries(redis);
    let primary = all[usize::try_from(number / 10).unwrap() % all.len()];
    let restart = move |_: &mut Region| redis.start_stopped_servers();
    let signal = move |name| move |_: &mut Region| redis.signal(primary, name);
    let every = all.clone();
    match number % 10 {
        0 => {
            Fault::new("one primary stops", signal("STOP"), signal("CONT")).lasting(Duration::from_secs(6)).loses_data()
        }
        1 => Fault::new("one primary is killed", signal("KILL"), restart).lasting(Duration::from_secs(4)).loses_data(),
        2 => Fault::new(
            "all primaries stop",
            move |_| all.iter().for_each(|port| redis.signal(*port, "STOP")),
            move |_| every.iter().for_each(|port| redis.signal(*port, "CONT")),
        )
        .loses_data(),
        3 => Fault::new(
            "all data is deleted",
            move |_| all.iter().for_each(|port| drop(redis_cli(*port, &["flushall"]))),
            |_| (),
        )
        .loses_data(),
        4 => Fault::new(
            "scripts are flushed",
            move |_| all.iter().for_each(|port| drop(redis_cli(*port, &["script", "flush"]))),
            |_| (),
        ),
        5 => Fault::new(
            "one primary has no memory left",
            move |_| configure([primary], "maxmemory", "1mb"),
            move |_| configure([primary], "maxmemory", "0"),
        ),
        6 => changed_password(redis),
        7 => {
            Fault::new("a node stops", |region| region.nodes[0].signal("STOP"), |region| region.nodes[0].signal("CONT"))
                .lasting(Duration::from_secs(1))
        }
        8 => Fault::new(
            "a planned failover",
            move |_| assert_eq!(redis_cli(replica(redis, primary), &["cluster", "failover"]), "OK"),
            |_| (),
        )
        .loses_data(),
        _ => Fault::new(
            "all servers are killed",
            move |_| redis.ports().for_each(|port| redis.signal(port, "KILL")),
            restart,
        )
        .loses_data(),
    }
}

/// The maximum resource usage of any node.
#[derive(Clone, Copy, Debug)]
struct Usage {
    memory: f64,
    tasks: f64,
}

fn usage(region: &Region) -> Usage {
    let max = |name: &str| region.nodes.iter().map(|node| node.metric(name)).fold(0.0, f64::max);
    Usage { memory: max("process_resident_memory_bytes "), tasks: max("tidegate_tasks ") }
}

#[test]
#[ignore = "takes a quarter of an hour: run scripts/soak"]
fn promises_hold_for_a_quarter_of_an_hour_with_a_fault_every_half_minute() {
    let (seconds, first) = (setting("TIDEGATE_SOAK", 900), setting("TIDEGATE_SEED", 0));
    let redis = Cluster::start();
    let mut region = Region::start(&redis.url(), &[]);
    let clients = region.clients(Some(RENAME_EVERY));
    clients.start(&region.runtime);
    let start = now();
    let at = |second: u64| start + second * 1_000_000;
    let (mut faults, mut data_losses, mut usages, mut reported) = (0, Vec::new(), Vec::new(), 0);
    println!("| second | fault | checks since | abnormal | longest wait, ms | memory, MB | tasks |");
    println!("|---|---|---|---|---|---|---|");
    for second in (FAULT_INTERVAL..seconds).step_by(usize::try_from(FAULT_INTERVAL).unwrap()) {
        while now() < at(second) {
            pause(Duration::from_millis(500));
            usages.push(usage(&region));
        }
        let fault = fault(&redis, first + faults);
        let began_at = now();
        (fault.begin)(&mut region);
        pause(fault.duration);
        (fault.end)(&mut region);
        faults += 1;
        data_losses.extend(fault.loses_data.then(now));
        // The region must have recovered before the next fault.
        wait_for("normal service", || {
            let since = clients.records_from(reported);
            let last = since.iter().filter(|a| is_abnormal(a)).map(|a| a.answered_at).max().unwrap_or(0);
            (now() > last.max(began_at) + 3_000_000).then_some(())
        });
        let since = clients.records_from(reported);
        reported += since.len();
        let abnormal = since.iter().filter(|a| is_abnormal(a)).count();
        let longest = since.iter().map(DrillCheck::wait_ms).max();
        let Usage { memory, tasks } = usage(&region);
        println!(
            "| {second} | {} | {} | {abnormal} | {} | {:.0} | {tasks} |",
            fault.name,
            since.len(),
            longest.unwrap_or(0),
            memory / 1e6
        );
    }
    clients.stop();
    wait_for("the last answers", || {
        let before = clients.records_from(reported).len();
        pause(Duration::from_millis(500));
        (clients.records_from(reported).len() == before).then_some(())
    });

    let records = clients.records();
    assert!(records.iter().all(|a| a.answer.is_some()), "every check has an answer");
    // The number of checks by the nodes' own count.
    let counted: f64 = (0..NODES)
        .flat_map(|node| ["allowed", "blocked"].map(|status| (node, status)))
        .map(|(node, status)| {
            region.nodes[node].metric(&format!("rate_limiter_requests_total{{status=\"{status}\"}} "))
        })
        .sum();
    let users = records.iter().map(|a| a.user).max().unwrap_or(0) + 1;
    let mut by_user: Vec<Vec<DrillCheck>> = vec![Vec::new(); users];
    records.iter().for_each(|a| by_user[a.user].push(*a));
    let ratio_of = |user: usize| {
        let (mode, checks) = (clients.mode(user), &by_user[user]);
        ratio(admitted(mode, checks), promised(mode, checks, &data_losses))
    };
    let worst = (0..users).map(ratio_of).fold(0.0, f64::max);
    let fifth = usages.len() / 5;
    let mean =
        |part: &[Usage], value: fn(&Usage) -> f64| part.iter().map(value).sum::<f64>() / part.len().max(1) as f64;
    let (early, late) = (&usages[fifth..2 * fifth], &usages[4 * fifth..]);
    let memory = [early, late].map(|part| mean(part, |usage| usage.memory));
    let tasks = [early, late].map(|part| mean(part, |usage| usage.tasks));
    println!(
        "\n{} checks of {users} users in {seconds} s, {faults} faults: all answered, {counted} counted by the nodes; the worst \
         user was admitted {worst:.2} of what was promised; memory {:.1} -> {:.1} MB, tasks {:.0} -> {:.0}",
        records.len(),
        memory[0] / 1e6,
        memory[1] / 1e6,
        tasks[0],
        tasks[1],
    );
    let longest = records.iter().map(DrillCheck::wait_ms).max().unwrap_or(0);
    assert!(longest < MAX_WAIT_WITH_STOPPED_NODE_MS, "a check waited {longest} ms");
    assert_eq!(counted, records.len() as f64, "the nodes' own count is the same");
    assert!(worst <= 1.0, "more hits were admitted for a user than promised");
    assert!(memory[1] < memory[0] + MAX_GROWTH, "memory does not grow");
    assert!(tasks[1] < tasks[0] * 1.5, "the number of tasks does not grow");
}
