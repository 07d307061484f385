//! A drill: a crowd asks, something goes wrong, it is put right, and what the crowd saw is held against the promises.

use std::time::Duration;

use crate::crowd::{Asked, Crowd, LIMIT, Mode, now};
use crate::node::wait_for;
use crate::region::Region;
use crate::servers::ask;
use crate::table::Row;
use crate::verdict::{admitted, odd, promised, share, slow};

/// What a check may take, `store.deadline` (100 ms) included, on a machine that is shared: a check that waits for anything else
/// takes longer.
const ANSWERED_WITHIN_MS: u64 = 1000;
/// The same where a node stands still.
pub const STOOD_WITHIN_MS: u64 = 3000;
/// So long nothing may have been out of the ordinary for service to be normal.
const CALM: Duration = Duration::from_secs(1);
/// So much of their limits users can use after any fault: what batches without an answer had asked for is lost to them.
const USED: f64 = 0.9;
/// How long it may take until it is: Sentinels take twenty seconds before they replace a primary again.
const NORMAL_WITHIN_MS: u64 = 90_000;

/// A fault, and what it may cost.
pub struct Fault<'a> {
    pub name: &'a str,
    /// Whether the store may forget what it charged before the fault ends.
    pub forgets: bool,
    /// Whether the region is to find a way around it: the time to normal service begins with the fault, not with its end.
    pub by_itself: bool,
    /// Whether it ends nodes: clients have to ask another then.
    pub ends_nodes: bool,
    /// Whether it keeps a node from its work, so that what it was asked waits as long.
    pub stands: bool,
    /// The one primary that it hits, if it is one.
    pub sick: Option<u16>,
    pub begin: Box<dyn FnOnce(&mut Region) + 'a>,
    pub lasts: Duration,
    pub end: Box<dyn FnOnce(&mut Region) + 'a>,
}

impl<'a> Fault<'a> {
    /// A fault that lasts two seconds and makes nothing forgotten.
    pub fn new(name: &'a str, begin: impl FnOnce(&mut Region) + 'a, end: impl FnOnce(&mut Region) + 'a) -> Self {
        let (begin, end) = (Box::new(begin), Box::new(end));
        Self {
            name,
            forgets: false,
            by_itself: false,
            ends_nodes: false,
            stands: false,
            sick: None,
            begin,
            lasts: Duration::from_secs(2),
            end,
        }
    }

    pub fn stands(self) -> Self {
        Self { stands: true, ..self }
    }

    pub fn forgets(self) -> Self {
        Self { forgets: true, ..self }
    }

    pub fn overcome(self) -> Self {
        Self { by_itself: true, ..self }
    }

    pub fn of_nodes(self) -> Self {
        Self { ends_nodes: true, by_itself: true, ..self }
    }

    pub fn at(self, sick: u16) -> Self {
        Self { sick: Some(sick), ..self }
    }

    pub fn lasts(self, lasts: Duration) -> Self {
        Self { lasts, ..self }
    }
}

impl Region {
    /// Lets `fault` happen under load, and holds what clients saw against the promises.
    pub fn drill(&mut self, fault: Fault<'_>) {
        let Fault { name, forgets, by_itself, ends_nodes, stands, sick, begin, lasts, end } = fault;
        let crowd = self.crowd(None);
        crowd.begin(&self.runtime);
        pause(CALM);
        let elsewhere = sick.map(|sick| self.elsewhere(&crowd, sick));
        let begun = now();
        begin(self);
        pause(lasts);
        end(self);
        let ended = now();
        let since = if by_itself { begun } else { ended };
        let last_odd = || crowd.noted().iter().filter(|a| odd(a)).map(|a| a.answered).max().unwrap_or(0).max(since);
        wait_for("normal service", || (now().saturating_sub(last_odd().max(ended)) > micros(CALM)).then_some(()));
        let normal = (last_odd() - since) / 1000;
        crowd.end();
        crowd.drain(&self.runtime);
        // What cores still held goes back within a lease.
        pause(Duration::from_millis(500));
        crowd.drain(&self.runtime);

        let noted = crowd.noted();
        let meanwhile = |asked: &&Asked| asked.answered >= begun && asked.asked <= ended;
        let count = |asked: &mut dyn Iterator<Item = &Asked>| asked.count();
        let during = count(&mut noted.iter().filter(meanwhile)).max(1);
        let forgotten = if forgets { vec![ended] } else { Vec::new() };
        let users: Vec<(Mode, Vec<Asked>)> = crowd
            .users
            .iter()
            .enumerate()
            .map(|(user, mode)| (mode.mode, noted.iter().filter(|a| a.user == user).copied().collect()))
            .collect();
        let strict = users.iter().filter(|(mode, _)| matches!(mode, Mode::Exact | Mode::Leased));
        let strict: Vec<usize> = strict.map(|(mode, asked)| admitted(*mode, asked)).collect();
        let worst = users.iter().map(|(mode, asked)| share(admitted(*mode, asked), promised(*mode, asked, &forgotten)));
        let bystanders: Option<Vec<Asked>> =
            elsewhere.map(|users| noted.iter().filter(|a| users.contains(&a.user)).copied().collect());
        let row = Row {
            fault: name.to_owned(),
            checks: noted.len(),
            longest: noted.iter().map(Asked::waited).max().unwrap_or(0),
            failed: noted.iter().filter(|a| a.answer.is_none()).count(),
            retried: noted.iter().filter(|a| a.answer.is_some() && a.retries > 0).count(),
            degraded: 100.0 * share(count(&mut noted.iter().filter(meanwhile).filter(|a| odd(a))), during),
            worst: worst.fold(0.0, f64::max),
            used: share(strict.iter().sum(), strict.len() * LIMIT),
            normal,
            others: bystanders.as_ref().map(|asked| {
                let (before, during): (Vec<Asked>, Vec<Asked>) =
                    asked.iter().filter(|a| a.asked <= ended).partition(|a| a.answered < begun);
                (slow(&before), slow(&during))
            }),
        };
        println!("{row:?}");
        assert_eq!(row.failed, 0, "{name}: every check is answered");
        assert!(ends_nodes || row.retried == 0, "{name}: every check is answered by the node that it came to");
        assert!(row.used >= USED, "{name}: no more than {:.2} of limits can be used", row.used);
        let within = if stands { STOOD_WITHIN_MS } else { ANSWERED_WITHIN_MS };
        assert!(row.longest < within, "{name}: a check waited {} ms", row.longest);
        assert!(row.worst <= 1.0, "{name}: a user was admitted more than was promised");
        assert!(row.normal < NORMAL_WITHIN_MS, "{name}: {} ms to normal service", row.normal);
        if let Some(asked) = &bystanders {
            let hurt = asked.iter().filter(|a| odd(a)).count();
            assert!(hurt * 4 <= asked.len(), "{name}: {hurt} of {} at other primaries", asked.len());
        }
        self.rows.0.push(row);
    }

    /// The users whose counters are not at this primary.
    fn elsewhere(&self, crowd: &Crowd, sick: u16) -> Vec<usize> {
        let here = ask(sick, &["--scan"]);
        let is_here = |name: &str| here.lines().any(|key| key.ends_with(&format!("/{name}")));
        let users: Vec<usize> = (0..crowd.users.len()).filter(|user| !is_here(&crowd.users[*user].name)).collect();
        assert!(!users.is_empty() && users.len() < crowd.users.len(), "counters are on several primaries");
        users
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// How long a fault lasts is part of what is told: nothing is waited for.
#[expect(clippy::disallowed_methods, reason = "see above")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
