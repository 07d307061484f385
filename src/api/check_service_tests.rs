//! How long a check waits for its API key. Time is virtual.

use std::sync::Mutex;

use limiter::rules::{Identity, IdentityTerms, OnIdentityFailure};
use limiter::{Check, Revision, WallTime};

use super::*;
use crate::api::attributes::{DescriptorRequest, Field};
use crate::ports::identity::{Identified, KeyAnswer, Owner};
use crate::telemetry::registry::MetricsRegistry;

const DEADLINE: Duration = Duration::from_millis(100);

/// The virtual time of the runtime.
struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    #[expect(clippy::disallowed_methods, reason = "the time of these tests is virtual")]
    fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

/// Allows every check at once, and notes its attributes and how long the store might take.
struct Noting {
    terms: Mutex<IdentityTerms>,
    asked: Mutex<Vec<(Vec<String>, Option<Duration>)>>,
}

impl Limiter for Noting {
    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn identity(&self, _: &str) -> IdentityTerms {
        *self.terms.lock().unwrap()
    }

    fn check(&self, check: &Check<'_>, _: NodeTime, wait: Wait) -> Answer {
        let names = check.descriptors.iter().flat_map(|descriptor| descriptor.entries);
        let names = names.map(|(name, value)| format!("{name}={value}")).collect();
        self.asked.lock().unwrap().push((names, wait.time));
        let (allowed, degraded, limits) = (true, false, Vec::new());
        let revision = Revision(1);
        Answer::Now(Ok(Decision {
            allowed,
            degraded,
            partitioned: false,
            revision,
            domain: None,
            retry_after: None,
            identity: None,
            too_much_work: false,
            limits,
        }))
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer> {
        checks.iter().map(|check| self.check(check, now, wait)).collect()
    }
}

/// Finds the owner of a key after as many milliseconds as the key says.
struct Slow;

impl Identities for Slow {
    fn identify(&self, key: &str, wait: Duration) -> Identified {
        let owner = Owner { user: "u1".to_owned(), tier: None, key_id: "k1".to_owned() };
        let took = Duration::from_millis(key.parse().unwrap());
        if took.is_zero() {
            return Identified::Now(KeyAnswer::Valid(owner));
        }
        let looked_up = Box::pin(async move {
            let found = tokio::time::timeout(wait, tokio::time::sleep(took)).await;
            found.map_or(KeyAnswer::Unavailable, |()| KeyAnswer::Valid(owner))
        });
        Identified::Later { looked_up, without: KeyAnswer::Expired }
    }
}

fn service() -> (CheckService, Arc<Noting>) {
    let terms = IdentityTerms { identity: Identity::Either, on_failure: OnIdentityFailure::Deny };
    let limiter = Arc::new(Noting { terms: Mutex::new(terms), asked: Mutex::default() });
    let metrics = CheckMetrics::new(&MetricsRegistry::new("test", "test").unwrap()).unwrap();
    let service = CheckService {
        limiter: Arc::clone(&limiter) as Arc<dyn Limiter>,
        clock: Arc::new(VirtualClock::start()),
        tally: metrics.tally(),
        metrics: Arc::new(metrics),
        ids: RequestIds::new(1),
        identities: Arc::new(Slow),
        batches: BatchGate::new(),
        waiting_for_keys: room_for_keys(),
    };
    (service, limiter)
}

fn request(descriptors: &[(&str, &str)]) -> CheckRequest {
    let descriptor =
        |(name, value): &(&str, &str)| DescriptorRequest::unordered([((*name).to_owned(), (*value).to_owned())], 1);
    let descriptors = descriptors.iter().map(descriptor).collect();
    CheckRequest::new("d".to_owned(), descriptors, Vec::new(), |_: Field<'_>| String::new()).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_the_identity_and_the_store_together() {
    let (service, limiter) = service();
    let id = service.ids.take(None);
    let decision = service.check(request(&[("api_key", "70")]), None, &id).await.unwrap();
    assert!(decision.allowed && service.clock.now() == NodeTime(70_000));
    assert_eq!(limiter.asked.lock().unwrap()[0].1, Some(ms(30)), "the store may take what is left");

    for (timeout, expected) in [(None, DEADLINE), (Some(ms(40)), ms(40)), (Some(ms(5000)), DEADLINE)] {
        let arrived = service.clock.now();
        let decision = service.check(request(&[("api_key", "1000"), ("api_key", "900")]), timeout, &id).await.unwrap();
        assert_eq!(decision.identity, Some(IdentityProblem::Unavailable));
        // The timer of the runtime counts whole milliseconds.
        let waited = Duration::from_micros(service.clock.now().since(arrived));
        assert!(waited >= expected && waited <= expected + ms(1), "{waited:?}");
    }
    assert_eq!(limiter.asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_delays_no_other_check_of_its_batch() {
    let (service, limiter) = service();
    let id = service.ids.take(None);
    let mut requests =
        [("api_key", "1000"), ("path", "/"), ("api_key", "0"), ("api_key", "20")].map(|one| request(&[one]));
    let pending = service.begin(&mut requests, None, Rest::Later);
    assert_eq!(pending.iter().map(PendingAnswer::waits).collect::<Vec<_>>(), [true, false, false, true]);
    let names = |at: usize| limiter.asked.lock().unwrap()[at].0.clone();
    assert_eq!(
        (names(0), names(1)),
        (vec!["path=/".to_owned()], ["api_key=k1", "user=u1", "key_id=k1"].map(str::to_owned).to_vec())
    );
    let finished = requests.into_iter().zip(pending).map(|(request, pending)| service.finish(request, pending, &id));
    let decisions: Vec<_> = futures_util::future::join_all(finished).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(decisions.iter().map(|decision| decision.allowed).collect::<Vec<_>>(), [false, true, true, true]);
    assert_eq!(limiter.asked.lock().unwrap()[2].1, Some(ms(80)));
}

#[tokio::test(start_paused = true)]
async fn rules_that_change_during_a_look_up_decide_the_whole_check() {
    let (service, limiter) = service();
    let id = service.ids.take(None);
    let check = service.check(request(&[("api_key", "50")]), None, &id);
    let change = async {
        tokio::time::sleep(ms(10)).await;
        *limiter.terms.lock().unwrap() = IdentityTerms::default();
    };
    let (decision, ()) = tokio::join!(check, change);
    assert!(decision.unwrap().allowed);
    assert_eq!(limiter.asked.lock().unwrap()[0].0, ["api_key=50"], "the new rules take identities from the caller");
}

#[tokio::test(start_paused = true)]
async fn checks_that_wait_for_their_keys_take_a_bounded_memory() {
    let (service, _) = service();
    let id = service.ids.take(None);
    let large = |key: &str| {
        let path = "/".repeat(3_000_000);
        let attributes = [("api_key".to_owned(), key.to_owned()), ("path".to_owned(), path)];
        let descriptors = vec![DescriptorRequest::unordered(attributes, 1)];
        CheckRequest::from_gateway("d".to_owned(), descriptors, Vec::new(), |_: Field<'_>| String::new()).unwrap()
    };
    let checks = (0..7).map(|_| service.check(large("50"), None, &id));
    let decisions = futures_util::future::join_all(checks).await.into_iter().map(Result::unwrap);
    let identities: Vec<_> = decisions.map(|decision| decision.identity).collect();
    assert_eq!(identities[..5], [None; 5], "16 MiB have room for five");
    assert_eq!(identities[5..], [Some(IdentityProblem::ExpiredKey); 2], "what is known from longer ago counts");
    assert_eq!(service.check(large("50"), None, &id).await.unwrap().identity, None, "the room is free again");
}
