//! Faults between and in three regions, while users of all of them send requests. What users are answered at the load
//! balancers is compared with the promises of `docs/regions.md`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::files::REGIONS;
use crate::http::Client;
use crate::promise::{Cut, Limit, Promise, judge};
use crate::three_regions::Regions;
use crate::users::{Answer, Outcome, Traffic, now_ms};
use crate::wait::{elapsed, wait_for};

/// A day, so that the window does not end during the test. Regions admit the same limit together in short windows, too.
const DAY_S: u64 = 86_400;
/// Each region uses more than the tenth of each limit from which on it tells the others (`gossip.floor`).
const LIMITS: [Limit; 8] = [
    limit("share-day", 400, DAY_S, Promise::Share),
    limit("share-short", 60, 20, Promise::Share),
    limit("open-day", 900, DAY_S, Promise::Open),
    limit("open-short", 60, 20, Promise::Open),
    limit("deny-day", 400, DAY_S, Promise::Deny),
    limit("deny-short", 60, 20, Promise::Deny),
    limit("escrow-short", 60, 20, Promise::Escrow),
    Limit { consistency: "leased", ..limit("escrow-minute", 300, 60, Promise::Escrow) },
];
/// Has many users, of which each has a few hits.
const MANY: Limit = limit("many-day", 20, DAY_S, Promise::Open);
/// What regions may admit at most before they hear of each other, at the pace of this test.
const UNSEEN: u64 = 80;
/// Tidegate's nodes in each region, by the last part of their addresses.
const NODES: [u8; 2] = [11, 12];

const fn limit(name: &'static str, limit: u64, window_s: u64, promise: Promise) -> Limit {
    Limit { name, limit, window_s, promise, consistency: "exact" }
}

/// A user of each limit.
fn users(phase: &str) -> Vec<String> {
    LIMITS.iter().map(|limit| user(limit, phase)).collect()
}

fn user(limit: &Limit, phase: &str) -> String {
    format!("{}.{phase}", limit.name)
}

/// What a node says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    remaining: u64,
    partitioned: bool,
}

/// Asks a node in whose namespace this thread is. `None` if it does not answer.
fn ask(region: usize, node: u8, user: &str) -> Option<Said> {
    let address = Ipv4Addr::new(10, u8::try_from(region + 1).unwrap(), 0, node);
    let mut client = Client::new(address, SocketAddr::from((address, 8080)));
    let body = json!({ "domain": "edge", "attributes": { "user": user }, "hits": 0 }).to_string();
    let response = client.send("POST /v1/check HTTP/1.1\r\ncontent-type: application/json", &body).ok()?;
    let answer: Value = serde_json::from_str(&response.body).ok()?;
    let remaining = answer["limits"][0]["remaining"].as_u64()?;
    Some(Said { remaining, partitioned: answer["partitioned"] == true })
}

/// What each node of these regions says of a user.
fn said(regions: &Regions, of: &[usize], user: &str) -> Vec<Option<Said>> {
    let of_region = |region: &usize| regions.inside(REGIONS[*region], || NODES.map(|node| ask(*region, node, user)));
    of.iter().flat_map(of_region).collect()
}

/// Waits until every node says of a new user that it is partitioned, or that it is not.
fn wait_until_partitioned(regions: &Regions, partitioned: bool) {
    let probe = format!("{}.probe-{}", LIMITS[0].name, now_ms());
    wait_for("all nodes to notice", || {
        let all = said(regions, &[0, 1, 2], &probe);
        all.iter().all(|said| said.is_some_and(|said| said.partitioned == partitioned)).then_some(())
    });
}

/// Sleeps for a time that is part of the drill.
#[expect(clippy::disallowed_methods, reason = "the duration of a fault is part of the drill")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Puts the limits of this test into force at all nodes.
fn apply_rules(regions: &Regions) {
    let rules: String = LIMITS.iter().chain([&MANY]).map(|limit| format!("      - {}\n", limit.rule())).collect();
    let file = regions.folder().join("chaos.yaml");
    std::fs::write(&file, format!("version: 1\ndomains:\n  - domain: edge\n    limits:\n{rules}")).unwrap();
    let token = regions.folder().join("owner.token");
    let [file, token] = [file, token].map(|path| path.to_str().unwrap().to_owned());
    let tidegate = env!("CARGO_BIN_EXE_tidegate");
    let apply = [tidegate, "rules", "apply", &file, "--yes", "--token-file", &token, "--addr", "http://127.0.0.1:8083"];
    println!("{}", regions.within("us-east", &apply));
    for limit in &LIMITS {
        // A region has its part of an escrow, once a window began after its store did.
        let expected = match limit.promise {
            Promise::Escrow => [0, 1, 2].map(|region| limit.part(region)),
            _ => [limit.limit; 3],
        };
        wait_for("the rules in all regions", || {
            let all = said(regions, &[0, 1, 2], &user(limit, "nobody"));
            let expected = expected.iter().flat_map(|left| NODES.map(|_| *left));
            all.iter().zip(expected).all(|(said, left)| said.is_some_and(|said| said.remaining == left)).then_some(())
        });
    }
}

fn count(answers: &[Answer], is: impl Fn(&Answer) -> bool) -> u64 {
    answers.iter().filter(|answer| is(answer)).count() as u64
}

/// Compares what each user of a phase was admitted with the promises, and prints both.
fn judge_all(phase: &str, answers: &[Answer], cut: Option<Cut>) {
    for limit in &LIMITS {
        let user = user(limit, phase);
        for used in judge(limit, &user, answers, cut) {
            let total: u64 = used.admitted.iter().sum();
            println!("| {user} | {} | {:?} | {total} | {} |", used.window % 10_000, used.admitted, used.bound);
        }
        let denied =
            |region| count(answers, |a| *a.user == *user && a.region == region && a.outcome == Outcome::Denied);
        println!("{user}: denied {:?}", [0, 1, 2].map(denied));
    }
    let [unlimited, failed] = [Outcome::Unlimited, Outcome::Failed].map(|o| count(answers, |a| a.outcome == o));
    let all = answers.len();
    println!("{phase}: {all} requests, {unlimited} that passed without a node's answer, {failed} that failed");
    assert_eq!(failed, 0, "{phase}: requests that failed");
}

/// Waits until all regions agree on how much is left of each of these limits that has a long window: what these answers
/// leave. Prints the time.
fn wait_until_all_agree(regions: &Regions, limits: &[Limit], phase: &str, answers: &[Answer]) {
    let start = elapsed();
    for limit in limits.iter().filter(|limit| limit.window_s == DAY_S) {
        let user = user(limit, phase);
        // A node may have counted a request whose gateway got no answer in time.
        let admitted = count(answers, |a| *a.user == *user && a.outcome == Outcome::Admitted);
        let unknown = count(answers, |a| *a.user == *user && a.outcome == Outcome::Unlimited);
        let left = limit.limit.saturating_sub(admitted + unknown)..=limit.limit.saturating_sub(admitted);
        wait_for(&format!("{user}: {left:?} left in all regions"), || {
            let all = said(regions, &[0, 1, 2], &user);
            let is_left = |said: &Option<Said>| said.is_some_and(|said| left.contains(&said.remaining));
            (all.iter().all(is_left) && all.iter().all(|said| *said == all[0])).then_some(())
        });
        println!("{phase}: all regions say what is left of {user} {:.1?} after the fault", elapsed() - start);
    }
}

/// Cuts links for a while under load, and judges all answers. Each link is one direction.
fn cut_and_heal(regions: &Regions, phase: &str, links: &[(&str, &str)], lasts: Duration) {
    println!("\n== {phase}: {links:?} cut for {lasts:?}");
    wait_until_partitioned(regions, false);
    let change = |word: &str| links.iter().for_each(|(from, to)| drop(regions.script(&["link", from, to, word])));
    let traffic = Traffic::start(regions, &[0, 1, 2], &users(phase));
    pause(Duration::from_secs(15));
    let (begin_ms, begin) = (now_ms(), elapsed());
    change("cut");
    wait_until_partitioned(regions, true);
    let noticed_ms = now_ms();
    println!("{phase}: all nodes noticed it within {} ms", noticed_ms - begin_ms);
    pause(lasts.saturating_sub(elapsed() - begin));
    let answers = traffic.stop();
    // So that counts change while the partition ends.
    let busy = Traffic::start(regions, &[0, 1, 2], &[format!("{}.busy", LIMITS[0].name)]);
    let (end_ms, end) = (now_ms(), elapsed());
    change("heal");
    wait_until_all_agree(regions, &LIMITS, phase, &answers);
    wait_until_partitioned(regions, false);
    println!("{phase}: no node says that it is partitioned {:.1?} after the cut was healed", elapsed() - end);
    busy.stop();
    judge_all(phase, &answers, Some(Cut { begin_ms, noticed_ms, end_ms }));
    for region in 0..3 {
        let user = user(&LIMITS[0], phase);
        let denied = count(&answers, |a| {
            *a.user == *user && a.region == region && a.outcome == Outcome::Denied && a.answered_ms < end_ms
        });
        assert!(denied > 0, "{phase}: region {region} was not asked for more than its share");
    }
}

#[test]
#[ignore = "runs 60 processes for ten minutes: scripts/test --deploy regions_keep --ignored"]
fn regions_keep_their_promises_through_cuts_a_rebuild_and_an_upgrade() {
    let Some(regions) = Regions::start() else { return };
    apply_rules(&regions);
    let away = |from: &'static str, to: &'static str| [(from, to), (to, from)];
    let both = [away("eu-west", "us-east"), away("eu-west", "ap-northeast")].concat();
    cut_and_heal(&regions, "cut-off", &both, Duration::from_secs(60));
    cut_and_heal(&regions, "not-heard", &[("eu-west", "us-east")], Duration::from_secs(30));
    cut_and_heal(&regions, "hears-not", &[("us-east", "eu-west")], Duration::from_secs(30));
    rebuild(&regions);
    upgrade(&regions);
}

/// Destroys a region, and builds it again. It learns what the others counted.
fn rebuild(regions: &Regions) {
    let phase = "rebuilt";
    println!("\n== {phase}: eu-west is destroyed and built again");
    let many: Vec<String> = (0..200).map(|n| format!("{}.{n}", MANY.name)).collect();
    let shared = LIMITS[0];
    let mut answers = Vec::new();
    for (users, lasts) in
        [(vec![user(&shared, phase)], Duration::from_secs(2)), (many.clone(), Duration::from_secs(30))]
    {
        let traffic = Traffic::start(regions, &[0, 1, 2], &users);
        pause(lasts);
        answers.extend(traffic.stop());
    }
    let forgotten = count(&answers, |a| a.region == 1 && a.outcome == Outcome::Admitted);
    wait_until_all_agree(regions, &[shared], phase, &answers);
    let traffic = Traffic::start(regions, &[0, 2], &many);
    regions.script(&["down", "eu-west", "--wipe"]);
    answers.extend(traffic.stop());
    // What eu-west counted itself is lost with its counters: others do not tell a region what it said.
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    for answer in answers.iter().filter(|a| a.region != 1 && a.outcome == Outcome::Admitted) {
        *counted.entry(&*answer.user).or_default() += 1;
    }
    std::thread::scope(|scope| {
        let building = scope.spawn(|| regions.script(&["up"]));
        let probe = user(&LIMITS[0], "nobody");
        wait_for("a node of the new region", || said(regions, &[1], &probe).iter().all(Option::is_some).then_some(()));
        let start = elapsed();
        for user in &many {
            let expected = MANY.limit - counted.get(user.as_str()).copied().unwrap_or(0);
            wait_for(&format!("{expected} left for {user}"), || {
                let all = said(regions, &[1], user);
                all.iter().all(|said| said.is_some_and(|said| said.remaining == expected)).then_some(())
            });
        }
        println!(
            "{phase}: it knows what the others counted of {} users {:.1?} after both nodes answer; {forgotten} hits that \
             it had admitted itself are lost",
            many.len(),
            elapsed() - start
        );
        building.join().unwrap();
    });
    wait_until_partitioned(regions, false);
    // The new region gets no more than the others leave, and what it had admitted itself once more.
    let user = user(&shared, phase);
    let own = count(&answers, |a| *a.user == *user && a.region == 1 && a.outcome == Outcome::Admitted);
    let traffic = Traffic::start(regions, &[0, 1, 2], std::slice::from_ref(&user));
    pause(Duration::from_secs(10));
    answers.extend(traffic.stop());
    let admitted = [0, 1, 2]
        .map(|region| count(&answers, |a| *a.user == *user && a.region == region && a.outcome == Outcome::Admitted));
    println!("{phase}: {user} was admitted {admitted:?}, of which eu-west has forgotten {own}");
    let more = shared.limit + own;
    assert!(admitted.iter().sum::<u64>() <= more + UNSEEN, "{admitted:?}, at most {more}");
    assert_eq!(count(&answers, |a| a.outcome == Outcome::Failed), 0, "requests that failed");
}

/// Restarts the nodes of a region one after the other with another program.
fn upgrade(regions: &Regions) {
    let phase = "upgrade";
    println!("\n== {phase}: the nodes of us-east are restarted with another program");
    wait_until_partitioned(regions, false);
    let new = regions.folder().join("tidegate-new");
    std::fs::copy(env!("CARGO_BIN_EXE_tidegate"), &new).unwrap();
    let traffic = Traffic::start(regions, &[0, 1, 2], &users(phase));
    pause(Duration::from_secs(5));
    for node in ["us-east-1", "us-east-2"] {
        let start = elapsed();
        regions.script(&["down", node]);
        let stopped = elapsed() - start;
        regions.script_with(&new, &["up"]);
        let pid = std::fs::read_to_string(regions.folder().join("pids").join(node)).unwrap();
        assert_eq!(std::fs::read_link(format!("/proc/{}/exe", pid.trim())).unwrap(), new.canonicalize().unwrap());
        println!("{phase}: {node} ended within {stopped:.1?}, and runs the other program");
    }
    pause(Duration::from_secs(5));
    let answers = traffic.stop();
    judge_all(phase, &answers, None);
    wait_until_all_agree(regions, &LIMITS, phase, &answers);
    for outcome in [Outcome::Failed, Outcome::Unlimited] {
        let of_region = |region| count(&answers, |a| a.region == region && a.outcome == outcome);
        assert_eq!([0, 1, 2].map(of_region), [0; 3], "{outcome:?}");
    }
}
