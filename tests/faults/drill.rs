//! A drill: clients send checks, a fault starts and ends, and the answers are compared with the promises.

use std::time::Duration;

use crate::clients::{DrillCheck, DrillClients, LIMIT, Mode, now};
use crate::node::wait_for;
use crate::region::Region;
use crate::servers::redis_cli;
use crate::table::Row;
use crate::verdict::{admitted, is_abnormal, p90_wait_ms, promised, ratio};

/// The maximum time until an answer on a shared machine, including `store.deadline` (100 ms). A check that also
/// waits for something other than the store takes longer.
const MAX_WAIT_MS: u64 = 1000;
/// The maximum time until an answer if the fault stops a node.
pub const MAX_WAIT_WITH_STOPPED_NODE_MS: u64 = 3000;
/// Service is normal after this time without an abnormal check.
const NORMAL_AFTER: Duration = Duration::from_secs(1);
/// The minimum part of their limits that users can use after any fault. Hits that were asked
/// for in batches without a reply are lost.
const MIN_USED_RATIO: f64 = 0.9;
/// The maximum time to normal service. Sentinels wait twenty seconds before they replace a primary again,
/// and a shared machine may be slow.
const MAX_RECOVERY_MS: u64 = 90_000;

/// A fault and its permitted effects.
pub struct Fault<'a> {
    pub name: &'a str,
    /// True if the store may lose charges until the fault ends.
    pub loses_data: bool,
    /// True if the region must recover during the fault. The time to normal service then starts with the fault, not
    /// with its end.
    pub recovers_during_fault: bool,
    /// True if the fault ends nodes, so that clients must retry at another node.
    pub kills_nodes: bool,
    /// True if the fault stops a node, so that its checks wait until it continues.
    pub pauses_node: bool,
    /// The port of the affected primary, if the fault affects only one.
    pub primary: Option<u16>,
    pub begin: Box<dyn FnOnce(&mut Region) + 'a>,
    /// The time between `begin` and `end`.
    pub duration: Duration,
    pub end: Box<dyn FnOnce(&mut Region) + 'a>,
}

impl<'a> Fault<'a> {
    /// Returns a fault that lasts two seconds and loses no data.
    pub fn new(name: &'a str, begin: impl FnOnce(&mut Region) + 'a, end: impl FnOnce(&mut Region) + 'a) -> Self {
        let (begin, end) = (Box::new(begin), Box::new(end));
        Self {
            name,
            loses_data: false,
            recovers_during_fault: false,
            kills_nodes: false,
            pauses_node: false,
            primary: None,
            begin,
            duration: Duration::from_secs(2),
            end,
        }
    }

    pub fn pauses_node(self) -> Self {
        Self { pauses_node: true, ..self }
    }

    pub fn loses_data(self) -> Self {
        Self { loses_data: true, ..self }
    }

    pub fn recovers_during_fault(self) -> Self {
        Self { recovers_during_fault: true, ..self }
    }

    /// The region must also recover during the fault.
    pub fn kills_nodes(self) -> Self {
        Self { kills_nodes: true, recovers_during_fault: true, ..self }
    }

    pub fn at_primary(self, port: u16) -> Self {
        Self { primary: Some(port), ..self }
    }

    pub fn lasting(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }
}

impl Region {
    /// Runs `fault` under load and compares the answers with the promises.
    pub fn drill(&mut self, fault: Fault<'_>) {
        let Fault { name, loses_data, recovers_during_fault, kills_nodes, pauses_node, primary, begin, duration, end } =
            fault;
        let clients = self.clients(None);
        clients.start(&self.runtime);
        pause(NORMAL_AFTER);
        let other_users = primary.map(|primary| self.users_of_other_primaries(&clients, primary));
        let began_at = now();
        begin(self);
        pause(duration);
        end(self);
        let ended_at = now();
        let since = if recovers_during_fault { began_at } else { ended_at };
        let last_abnormal = || {
            let records = clients.records();
            records.iter().filter(|a| is_abnormal(a)).map(|a| a.answered_at).max().unwrap_or(0).max(since)
        };
        let normal_since = || now().saturating_sub(last_abnormal().max(ended_at));
        wait_for("normal service", || (normal_since() > micros(NORMAL_AFTER)).then_some(()));
        let recovery_ms = (last_abnormal() - since) / 1000;
        clients.stop();
        clients.use_up_limits(&self.runtime);
        // The cores return their leases within the lease time.
        pause(Duration::from_millis(500));
        clients.use_up_limits(&self.runtime);

        let records = clients.records();
        let in_fault = |check: &&DrillCheck| check.answered_at >= began_at && check.sent_at <= ended_at;
        let checks_in_fault = records.iter().filter(in_fault).count().max(1);
        let abnormal_in_fault = records.iter().filter(in_fault).filter(|a| is_abnormal(a)).count();
        let data_losses = if loses_data { vec![ended_at] } else { Vec::new() };
        let users: Vec<(Mode, Vec<DrillCheck>)> = clients
            .users
            .iter()
            .enumerate()
            .map(|(index, user)| (user.mode, records.iter().filter(|a| a.user == index).copied().collect()))
            .collect();
        let deny_mode_users = users.iter().filter(|(mode, _)| matches!(mode, Mode::Exact | Mode::Leased));
        let deny_mode_users: Vec<usize> = deny_mode_users.map(|(mode, checks)| admitted(*mode, checks)).collect();
        let ratios =
            users.iter().map(|(mode, checks)| ratio(admitted(*mode, checks), promised(*mode, checks, &data_losses)));
        let others: Option<Vec<DrillCheck>> =
            other_users.map(|users| records.iter().filter(|a| users.contains(&a.user)).copied().collect());
        let row = Row {
            fault: name.to_owned(),
            checks: records.len(),
            longest_wait_ms: records.iter().map(DrillCheck::wait_ms).max().unwrap_or(0),
            failed: records.iter().filter(|a| a.answer.is_none()).count(),
            retried: records.iter().filter(|a| a.answer.is_some() && a.retries > 0).count(),
            degraded_percent: 100.0 * ratio(abnormal_in_fault, checks_in_fault),
            worst_ratio: ratios.fold(0.0, f64::max),
            used_ratio: ratio(deny_mode_users.iter().sum(), deny_mode_users.len() * LIMIT),
            recovery_ms,
            others_p90_ms: others.as_ref().map(|checks| {
                let (before, during): (Vec<DrillCheck>, Vec<DrillCheck>) =
                    checks.iter().filter(|a| a.sent_at <= ended_at).partition(|a| a.answered_at < began_at);
                (p90_wait_ms(&before), p90_wait_ms(&during))
            }),
        };
        println!("{row:?}");
        assert_eq!(row.failed, 0, "{name}: some checks have no answer");
        assert!(kills_nodes || row.retried == 0, "{name}: some checks have no answer from their first node");
        assert!(row.used_ratio >= MIN_USED_RATIO, "{name}: only {:.2} of the limits can be used", row.used_ratio);
        let max_wait_ms = if pauses_node { MAX_WAIT_WITH_STOPPED_NODE_MS } else { MAX_WAIT_MS };
        assert!(row.longest_wait_ms < max_wait_ms, "{name}: a check waited {} ms", row.longest_wait_ms);
        assert!(row.worst_ratio <= 1.0, "{name}: more hits were admitted for a user than promised");
        assert!(row.recovery_ms < MAX_RECOVERY_MS, "{name}: {} ms to normal service", row.recovery_ms);
        if let Some(checks) = &others {
            let abnormal = checks.iter().filter(|a| is_abnormal(a)).count();
            let total = checks.len();
            assert!(abnormal * 4 <= total, "{name}: {abnormal} of {total} checks at other primaries are abnormal");
        }
        self.rows.0.push(row);
    }

    /// Returns the users whose counters are not on the primary at this port.
    fn users_of_other_primaries(&self, clients: &DrillClients, primary: u16) -> Vec<usize> {
        let keys = redis_cli(primary, &["--scan"]);
        let is_here = |name: &str| keys.lines().any(|key| key.ends_with(&format!("/{name}")));
        let users: Vec<usize> = (0..clients.users.len()).filter(|user| !is_here(&clients.users[*user].name)).collect();
        assert!(!users.is_empty() && users.len() < clients.users.len(), "the counters of all users are on one primary");
        users
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// Sleeps for a fixed time that is part of the drill.
#[expect(clippy::disallowed_methods, reason = "the duration of a fault is part of the drill")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
