//! A soak: mixed load for a quarter of an hour, and a fault every half minute.
//!
//! `scripts/soak` runs it; `TIDEGATE_SOAK` says for how many seconds, `TIDEGATE_SEED` with which fault it begins.

use std::time::Duration;

use crate::alone;
use crate::cluster::{configure, passwords, primaries, replica};
use crate::crowd::{Asked, now};
use crate::drill::{Fault, STOOD_WITHIN_MS, pause};
use crate::node::wait_for;
use crate::region::{NODES, Region};
use crate::servers::{Cluster, ask};
use crate::verdict::{admitted, odd, promised, share};

/// A fault comes so often.
const EVERY: u64 = 30;
/// Users have new names so often: their limits are never all used up.
const RENEWED: Duration = Duration::from_secs(5);
/// What memory may grow by between the second fifth and the last, in bytes: keys stay for a while after their last check.
const GROWTH: f64 = 32e6;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One of the ten faults, at one of the primaries.
fn some(redis: &Cluster, which: u64) -> Fault<'_> {
    let all = primaries(redis);
    let sick = all[usize::try_from(which / 10).unwrap() % all.len()];
    let back = move |_: &mut Region| redis.up();
    let signal = move |name| move |_: &mut Region| redis.signal(sick, name);
    let every = all.clone();
    match which % 10 {
        0 => Fault::new("one primary stops", signal("STOP"), signal("CONT")).lasts(Duration::from_secs(6)).forgets(),
        1 => Fault::new("one primary is killed", signal("KILL"), back).lasts(Duration::from_secs(4)).forgets(),
        2 => Fault::new(
            "all primaries stop",
            move |_| all.iter().for_each(|port| redis.signal(*port, "STOP")),
            move |_| every.iter().for_each(|port| redis.signal(*port, "CONT")),
        )
        .forgets(),
        3 => Fault::new(
            "everything is forgotten",
            move |_| all.iter().for_each(|port| drop(ask(*port, &["flushall"]))),
            |_| (),
        )
        .forgets(),
        4 => Fault::new(
            "scripts are flushed",
            move |_| all.iter().for_each(|port| drop(ask(*port, &["script", "flush"]))),
            |_| (),
        ),
        5 => Fault::new(
            "one primary has no memory left",
            move |_| configure([sick], "maxmemory", "1mb"),
            move |_| configure([sick], "maxmemory", "0"),
        ),
        6 => passwords(redis),
        7 => {
            Fault::new("a node stops", |region| region.nodes[0].signal("STOP"), |region| region.nodes[0].signal("CONT"))
                .lasts(Duration::from_secs(1))
        }
        8 => Fault::new(
            "a replica takes over in order",
            move |_| assert_eq!(ask(replica(redis, sick), &["cluster", "failover"]), "OK"),
            |_| (),
        )
        .forgets(),
        _ => Fault::new(
            "all servers are killed",
            move |_| redis.ports().for_each(|port| redis.signal(port, "KILL")),
            back,
        )
        .forgets(),
    }
}

/// What a node uses.
#[derive(Clone, Copy, Debug)]
struct Used {
    memory: f64,
    tasks: f64,
}

fn used(region: &Region) -> Vec<Used> {
    let of = |name: &str| region.nodes.iter().map(|node| node.metric(name)).fold(0.0, f64::max);
    vec![Used { memory: of("process_resident_memory_bytes "), tasks: of("tidegate_tasks ") }]
}

#[test]
#[ignore = "it takes a quarter of an hour: scripts/soak"]
fn a_quarter_of_an_hour_with_a_fault_every_half_minute() {
    let _alone = alone();
    let (seconds, first) = (number("TIDEGATE_SOAK", 900), number("TIDEGATE_SEED", 0));
    let redis = Cluster::start();
    let mut region = Region::start(&redis.url(), &[]);
    let crowd = region.crowd(Some(RENEWED));
    crowd.begin(&region.runtime);
    let begun = now();
    let at = |second: u64| begun + second * 1_000_000;
    let (mut faults, mut forgotten, mut seen, mut told) = (0, Vec::new(), Vec::new(), 0);
    println!("| second | fault | checks since | not decided as always | longest wait, ms | memory, MB | tasks |");
    println!("|---|---|---|---|---|---|---|");
    for second in (EVERY..seconds).step_by(usize::try_from(EVERY).unwrap()) {
        while now() < at(second) {
            pause(Duration::from_millis(500));
            seen.extend(used(&region));
        }
        let fault = some(&redis, first + faults);
        let from = now();
        (fault.begin)(&mut region);
        pause(fault.lasts);
        (fault.end)(&mut region);
        faults += 1;
        forgotten.extend(fault.forgets.then(now));
        // Until the next one comes the region must be as it was.
        wait_for("normal service", || {
            let since = crowd.noted_since(told);
            let last = since.iter().filter(|a| odd(a)).map(|a| a.answered).max().unwrap_or(0);
            (now() > last.max(from) + 3_000_000).then_some(())
        });
        let since = crowd.noted_since(told);
        told += since.len();
        let (odd, longest) = (since.iter().filter(|a| odd(a)).count(), since.iter().map(Asked::waited).max());
        let Used { memory, tasks } = used(&region)[0];
        println!(
            "| {second} | {} | {} | {odd} | {} | {:.0} | {tasks} |",
            fault.name,
            since.len(),
            longest.unwrap_or(0),
            memory / 1e6
        );
    }
    crowd.end();
    wait_for("the last answers", || {
        let before = crowd.noted_since(told).len();
        pause(Duration::from_millis(500));
        (crowd.noted_since(told).len() == before).then_some(())
    });

    let noted = crowd.noted();
    assert!(noted.iter().all(|a| a.answer.is_some()), "every check is answered");
    // As many as the nodes say that they answered.
    let counted: f64 = (0..NODES)
        .flat_map(|node| ["allowed", "blocked"].map(|status| (node, status)))
        .map(|(node, status)| {
            region.nodes[node].metric(&format!("rate_limiter_requests_total{{status=\"{status}\"}} "))
        })
        .sum();
    let users = noted.iter().map(|a| a.user).max().unwrap_or(0) + 1;
    let mut by_user: Vec<Vec<Asked>> = vec![Vec::new(); users];
    noted.iter().for_each(|a| by_user[a.user].push(*a));
    let of = |user: usize| {
        let (mode, asked) = (crowd.mode(user), &by_user[user]);
        share(admitted(mode, asked), promised(mode, asked, &forgotten))
    };
    let worst = (0..users).map(of).fold(0.0, f64::max);
    let fifth = seen.len() / 5;
    let mean = |part: &[Used], what: fn(&Used) -> f64| part.iter().map(what).sum::<f64>() / part.len().max(1) as f64;
    let (early, late) = (&seen[fifth..2 * fifth], &seen[4 * fifth..]);
    let memory = [early, late].map(|part| mean(part, |used| used.memory));
    let tasks = [early, late].map(|part| mean(part, |used| used.tasks));
    println!(
        "\n{} checks of {users} users in {seconds} s, {faults} faults: all answered, {counted} counted by the nodes; admitted \
         {worst:.2} of what was promised to the worst user; memory {:.1} -> {:.1} MB, tasks {:.0} -> {:.0}",
        noted.len(),
        memory[0] / 1e6,
        memory[1] / 1e6,
        tasks[0],
        tasks[1],
    );
    let longest = noted.iter().map(Asked::waited).max().unwrap_or(0);
    assert!(longest < STOOD_WITHIN_MS, "a check waited {longest} ms");
    assert_eq!(counted, noted.len() as f64, "the nodes' own count agrees");
    assert!(worst <= 1.0, "a user was admitted more than was promised");
    assert!(memory[1] < memory[0] + GROWTH, "memory is flat");
    assert!(tasks[1] < tasks[0] * 1.5, "tasks are flat");
}
