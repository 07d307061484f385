//! One direction between two regions: its conditions, and when what is sent arrives.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The bytes of a TCP segment in a packet of Ethernet.
const SEGMENT: u64 = 1448;
/// The shortest retransmission timeout of Linux beyond the round trip.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// The first timeout of a connection that opens.
const OPENING: Duration = Duration::from_secs(1);
/// How often a timeout doubles at most. It bounds the time that one loss takes.
const DOUBLINGS_MAX: u32 = 6;

/// The time of the runtime, which tests can stop.
#[expect(clippy::disallowed_methods, reason = "a proxy that delays bytes needs the clock of its runtime")]
pub fn now() -> Instant {
    Instant::now()
}

/// What a link does to what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// The one-way delay.
    pub delay: Duration,
    /// Shared by all connections. `None` is unlimited.
    pub bytes_per_second: Option<NonZeroU64>,
    /// The probability that a segment is lost, from 0 to below 1.
    pub loss: f64,
    /// Nothing arrives.
    pub cut: bool,
}

/// What connections see of a link.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    conditions: Conditions,
    /// When the last cut ended.
    healed_at: Option<Instant>,
    /// How often all connections were reset.
    resets: u64,
}

/// A link. Connections share it.
#[derive(Debug)]
pub struct Link {
    state: watch::Sender<State>,
    wire: Mutex<Wire>,
    delivered: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    /// A link of a network with this seed, which decides what is lost.
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            state: watch::Sender::new(State { conditions, ..State::default() }),
            wire: Mutex::new(Wire { free_at: None, rng: SmallRng::seed_from_u64(seed) }),
            delivered: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    pub fn conditions(&self) -> Conditions {
        self.state.borrow().conditions
    }

    /// Changes the conditions for what is sent from now on. A cut holds what is under way, too.
    pub fn set(&self, conditions: Conditions, now: Instant) {
        self.state.send_modify(|state| {
            if state.conditions.cut && !conditions.cut {
                state.healed_at = Some(now);
            }
            state.conditions = conditions;
        });
    }

    /// Resets all connections over this link.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Returns when the bytes that are sent at `now` arrive, unless the link is cut meanwhile.
    pub fn send(&self, bytes: usize, now: Instant) -> Instant {
        let conditions = self.conditions();
        self.wire.lock().unwrap_or_else(PoisonError::into_inner).send(conditions, bytes as u64, now)
    }

    /// Waits until what arrives at `at` may be delivered. What a cut held is due one delay after the end of the cut.
    /// It may be cancelled and called again.
    pub async fn due(&self, at: Instant) {
        let mut state = self.state.subscribe();
        loop {
            let Some(now) = open(&mut state).await else { return };
            let held = now.healed_at.filter(|healed_at| at < *healed_at);
            let due = held.map_or(at, |healed_at| healed_at + now.conditions.delay);
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return },
                () = sleep_until(due) => return,
            }
        }
    }

    /// Waits until one packet without data, sent at `now`, has passed.
    pub async fn pass(&self, now: Instant) {
        let at = self.wire.lock().unwrap_or_else(PoisonError::into_inner).open(self.conditions(), now);
        self.due(at).await;
    }

    /// Waits until the link is cut.
    pub async fn until_cut(&self) {
        // The sender lives as long as this link.
        let _ = self.state.subscribe().wait_for(|state| state.conditions.cut).await;
    }

    /// Waits until all connections are reset, after the call.
    pub fn until_reset(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.subscribe();
        let before = state.borrow().resets;
        async move {
            let _ = state.wait_for(|state| state.resets != before).await;
        }
    }

    /// Counts bytes that were delivered.
    pub fn count(&self, bytes: usize) {
        self.delivered.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The bytes that were delivered since the start.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// The connections that were made over this link since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection that was made over this link.
    pub fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until the link is not cut. Returns its state, or `None` when the link has ended.
async fn open(state: &mut watch::Receiver<State>) -> Option<State> {
    state.wait_for(|state| !state.conditions.cut).await.ok().map(|state| *state)
}

/// The order in which bytes leave, and what is lost. Time is an argument.
#[derive(Debug)]
struct Wire {
    /// When the last byte has left, with a bandwidth.
    free_at: Option<Instant>,
    rng: SmallRng,
}

impl Wire {
    fn send(&mut self, conditions: Conditions, bytes: u64, now: Instant) -> Instant {
        let mut left_at = now;
        if let Some(rate) = conditions.bytes_per_second {
            let took = Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(rate.get())) as u64);
            left_at = self.free_at.map_or(now, |free_at| free_at.max(now)) + took;
            self.free_at = Some(left_at);
        }
        let segments = i32::try_from(bytes.div_ceil(SEGMENT)).unwrap_or(i32::MAX);
        let kept = (1.0 - conditions.loss).powi(segments);
        left_at + conditions.delay + self.late(1.0 - kept, conditions.loss, 2 * conditions.delay + RETRANSMISSION)
    }

    fn open(&mut self, conditions: Conditions, now: Instant) -> Instant {
        now + conditions.delay + self.late(conditions.loss, conditions.loss, OPENING)
    }

    /// How late something comes that is lost with the probability `first`, and each repetition of it with `again`.
    fn late(&mut self, first: f64, again: f64, timeout: Duration) -> Duration {
        let mut late = Duration::ZERO;
        let mut probability = first;
        for doublings in 0..=DOUBLINGS_MAX {
            if probability <= 0.0 || self.rng.random::<f64>() >= probability {
                break;
            }
            late += timeout * 2u32.pow(doublings);
            probability = again;
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> Wire {
        Wire { free_at: None, rng: SmallRng::seed_from_u64(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_share_the_bandwidth_first_come_first_served() {
        let now = now();
        let delay = Duration::from_millis(40);
        let conditions = Conditions { delay, bytes_per_second: NonZeroU64::new(1000), ..Conditions::default() };
        let mut wire = wire();
        assert_eq!(wire.send(conditions, 500, now), now + Duration::from_millis(540));
        assert_eq!(wire.send(conditions, 500, now), now + Duration::from_millis(1040));
        // An idle link saves nothing up.
        let later = now + Duration::from_secs(60);
        assert_eq!(wire.send(conditions, 1000, later), later + Duration::from_millis(1040));
    }

    #[tokio::test(start_paused = true)]
    async fn lost_segments_come_a_retransmission_timeout_later() {
        let now = now();
        let conditions = Conditions { delay: Duration::from_millis(50), loss: 0.1, ..Conditions::default() };
        let mut wire = wire();
        let late: Vec<u128> = (0..10_000).map(|_| (wire.send(conditions, 1, now) - now).as_millis() - 50).collect();
        let count = |ms| late.iter().filter(|late| **late == ms).count();
        assert!((8_850..9_150).contains(&count(0)), "{}", count(0));
        assert!((800..1_000).contains(&count(300)), "{}", count(300));
        assert!((60..120).contains(&count(900)), "{}", count(900));
        // A large chunk has many segments, of which one is enough.
        let large = (0..1000).filter(|_| wire.send(conditions, 16 * 1448, now) > now + conditions.delay).count();
        assert!((780..850).contains(&large), "{large}");
        // The opening of a connection waits a second.
        let opened = (0..1000).map(|_| wire.open(conditions, now) - now).max().unwrap();
        assert!(opened >= Duration::from_millis(3050), "{opened:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_cut_held_arrives_one_delay_after_it_heals() {
        let link = Link::new(Conditions { delay: Duration::from_millis(40), ..Conditions::default() }, 1);
        let open = link.conditions();
        let start = now();
        let at = link.send(1, start);
        link.set(Conditions { cut: true, ..open }, start);
        let heal = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            link.set(open, now());
        };
        let arrive = async {
            link.due(at).await;
            now()
        };
        let (arrived, ()) = tokio::join!(arrive, heal);
        assert_eq!(arrived - start, Duration::from_millis(60_040));
        // What is sent afterwards is not late.
        let sent = now();
        link.due(link.send(1, sent)).await;
        assert_eq!(sent.elapsed(), Duration::from_millis(40));
    }
}
