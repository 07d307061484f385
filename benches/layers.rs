//! Measures each layer of a check by itself: `cargo bench --bench layers`.

#[path = "../crates/limiter/benches/fixtures/mod.rs"]
mod fixtures;

use limiter::{Check, Descriptor};
use std::hint::black_box;
use std::sync::Arc;

use counter_script::wire;
use divan::counter::ItemsCount;
use divan::{Bencher, bench};
use fixtures::{ENTRIES, HOT, NOW, ask, batch, book, hot_shard, run_batches, shard};
use limiter::rules::{ApplicableLimits, Consistency};
use prost::Message;
use proto::envoy::config::core::v3::HeaderValue;
use proto::envoy::service::ratelimit::v3::RateLimitResponse;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// Measures the search for the limits of a check in a rule book of `limits` limits.
#[bench(args = [10, 1000, 10_000])]
fn matching(bencher: Bencher<'_, '_>, limits: usize) {
    let book = book(limits, Consistency::Leased);
    let descriptors =
        [Descriptor { entries: &ENTRIES, ordered: true, hits: 1, charging: Default::default(), limit: None }];
    let check = Check { domain: "api", descriptors: &descriptors };
    bencher.bench_local(|| {
        let mut applied = ApplicableLimits::new();
        book.applicable(black_box(&check), &mut applied);
        applied.len()
    });
}

/// Measures a decision for a key that has tokens in hand.
#[bench]
fn hot_key(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(hot_shard).counter(ItemsCount::new(100u32)).bench_local_values(|mut shard| {
        for _ in 0..100 {
            black_box(ask(&mut shard, black_box(&ENTRIES), HOT));
        }
        shard
    });
}

/// Measures a check that goes through the queue of its lane, a batch, and the reply to it.
#[bench]
fn queue_and_reply(bencher: Bencher<'_, '_>) {
    let (mut shard, mut record) = (shard(Consistency::Exact), None);
    bencher.bench_local(|| {
        ask(&mut shard, black_box(&ENTRIES), NOW);
        run_batches(&mut shard, &mut record, NOW);
    });
}

/// Measures a message to an actor.
#[bench]
fn send_to_actor(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (actor, _task) = runtime.block_on(ractor::Actor::spawn(None, SumActor, ())).expect("an actor");
    bencher.counter(ItemsCount::new(100u32)).bench_local(|| {
        runtime.block_on(async {
            for _ in 0..100 {
                actor.cast(black_box(1)).expect("a running actor");
            }
            tokio::task::yield_now().await;
        });
    });
}

/// An actor that adds up its messages.
struct SumActor;

impl ractor::Actor for SumActor {
    type Msg = u8;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ractor::ActorRef<u8>, (): ()) -> Result<u64, ractor::ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<u8>,
        message: u8,
        sum: &mut u64,
    ) -> Result<(), ractor::ActorProcessingErr> {
        *sum += u64::from(message);
        Ok(())
    }
}

/// Measures the encoding of a batch of a hundred items for the script.
#[bench]
fn encode_batch(bencher: Bencher<'_, '_>) {
    let batch = batch(100);
    bencher.counter(ItemsCount::new(100u32)).bench_local(|| wire::encode_batch(black_box(&batch), batch.items.iter()));
}

/// Measures the decoding of the script's reply to a hundred items.
#[bench]
fn decode_reply(bencher: Bencher<'_, '_>) {
    let mut reply = vec![wire::VERSION, 1, 0, 6, 0x48, 0, 0, 0, 0];
    for _ in 0..100 {
        // A compact reply: the status and nine numbers. The incarnation is not 0.
        reply.push(4);
        reply.extend([1; 4 + 4 + 7 + 7 + 6 + 6 + 6 + 7 + 7]);
    }
    assert!(wire::decode_reply(&reply, 100).is_ok());
    bencher.counter(ItemsCount::new(100u32)).bench_local(|| wire::decode_reply(black_box(&reply), 100));
}

/// Measures the encoding of Envoy's response with the headers of one limit.
#[bench]
fn encode_headers(bencher: Bencher<'_, '_>) {
    let header = |key: &str| HeaderValue { key: key.to_owned(), value: "1000000".to_owned(), ..HeaderValue::default() };
    bencher.bench_local(|| {
        let response_headers_to_add = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(header);
        let response = RateLimitResponse {
            overall_code: 1,
            response_headers_to_add: response_headers_to_add.into(),
            ..RateLimitResponse::default()
        };
        black_box(response.encode_to_vec())
    });
}

/// Measures the clone of the shared rule book that each check takes.
#[bench]
fn clone_rule_book(bencher: Bencher<'_, '_>) {
    let book = book(10, Consistency::Leased);
    bencher.bench_local(|| Arc::clone(black_box(&book)));
}
