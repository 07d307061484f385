//! `CheckStream` calls. One stream carries many messages in flight, and the server answers them in any order.

use std::rc::Rc;

use hyper::body::Bytes;

use crate::answer::{self, CheckOutcome};
use crate::connection::{Http2Sender, RECONNECT_DELAY, connect_http2};
use crate::framing::first_message;
use crate::pacer::Slot;
use crate::unary::{describe_status, request_head};
use crate::worker::Worker;

/// Runs one stream after another until no slots are left. Reconnects when the server ends a stream or is unavailable.
pub async fn run_streams(worker: Rc<Worker>, mut sender: Http2Sender) {
    let mut messages = InFlightMessages::new(&worker);
    loop {
        let cause = match run_stream(&mut messages, sender.clone()).await {
            Ok(None) => return,
            Ok(Some(status)) => format!("the stream ended: {status}"),
            Err(error) => error.to_string(),
        };
        let lost = messages.clear();
        worker.recorder.borrow_mut().record_lost(lost, || cause);
        loop {
            if worker.pacer.is_over() {
                return;
            }
            match connect_http2(&worker.plan).await {
                Ok(new) => {
                    sender = new;
                    break;
                }
                Err(_) => tokio::time::sleep(RECONNECT_DELAY).await,
            }
        }
    }
}

/// Sends messages on one stream until no slots are left and all messages are answered. Returns the status if the server
/// ends the stream before.
async fn run_stream(messages: &mut InFlightMessages<'_>, sender: Http2Sender) -> Result<Option<String>, h2::Error> {
    let worker = messages.worker;
    let mut sender = sender.ready().await?;
    let (response, mut request_stream) = sender.send_request(request_head(&worker.plan), false)?;
    // A server may send nothing before it receives the first message.
    match worker.pacer.next().await {
        Some(slot) => messages.push(slot),
        None => return request_stream.send_data(Bytes::new(), true).map(|()| None),
    }
    messages.push_due();
    request_stream.send_data(messages.take_unsent(), false)?;
    let response = response.await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut chunks = response.into_body();
    let mut received: Vec<u8> = Vec::new();
    loop {
        messages.push_due();
        if !messages.unsent.is_empty() {
            request_stream.send_data(messages.take_unsent(), false)?;
        }
        if messages.no_slots_left && messages.is_empty() {
            return request_stream.send_data(Bytes::new(), true).map(|()| None);
        }
        tokio::select! {
            chunk = chunks.data(), if !messages.is_empty() => {
                let Some(chunk) = chunk.transpose()? else { break };
                chunks.flow_control().release_capacity(chunk.len())?;
                received.extend_from_slice(&chunk);
                let mut read = 0;
                while let Some((message, length)) = first_message(&received[read..]) {
                    if let Some((number, outcome, error)) = answer::decode_stream_message(message) {
                        messages.record_answer(number, outcome, error);
                    }
                    read += length;
                }
                received.drain(..read);
            }
            slot = worker.pacer.next(), if !messages.no_slots_left && !messages.free_numbers.is_empty() => match slot {
                Some(slot) => messages.push(slot),
                None => messages.no_slots_left = true,
            },
            else => break,
        }
    }
    let trailers = chunks.trailers().await?.unwrap_or_default();
    Ok(Some(describe_status(status, &headers, &trailers)))
}

/// The messages of one stream that have no answer yet. Each has a number below the plan's `in_flight`.
struct InFlightMessages<'a> {
    worker: &'a Worker,
    /// The slot and the key of each message in flight, by its number.
    by_number: Vec<Option<(Slot, u64)>>,
    free_numbers: Vec<usize>,
    /// Encoded messages that are not sent yet.
    unsent: Vec<u8>,
    no_slots_left: bool,
}

impl<'a> InFlightMessages<'a> {
    fn new(worker: &'a Worker) -> Self {
        let size = worker.plan.in_flight.max(1) as usize;
        Self {
            worker,
            by_number: vec![None; size],
            free_numbers: (0..size).rev().collect(),
            unsent: Vec::new(),
            no_slots_left: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.free_numbers.len() == self.by_number.len()
    }

    /// Encodes the message of `slot`.
    fn push(&mut self, slot: Slot) {
        let key = self.worker.keys(slot).first().copied().unwrap_or(0);
        if let Some(number) = self.free_numbers.pop() {
            self.by_number[number] = Some((slot, key));
            self.worker.plan.check.push_stream_message(key, number, &mut self.unsent);
        }
    }

    /// Encodes the messages that are due, as long as numbers are free.
    fn push_due(&mut self) {
        while !self.free_numbers.is_empty()
            && let Some(slot) = self.worker.pacer.try_next()
        {
            self.push(slot);
        }
    }

    fn record_answer(&mut self, number: usize, outcome: CheckOutcome, error: Option<String>) {
        if let Some((slot, key)) = self.by_number.get_mut(number).and_then(Option::take) {
            self.free_numbers.push(number);
            let mut recorder = self.worker.recorder.borrow_mut();
            if let Some(error) = error {
                recorder.failures.first_cause.get_or_insert(error);
            }
            recorder.record_answer(slot, std::iter::once((key, outcome)));
        }
    }

    /// Removes all messages after their connection was lost. Returns how many they were.
    fn clear(&mut self) -> u64 {
        let mut lost = 0;
        for number in 0..self.by_number.len() {
            if self.by_number[number].take().is_some() {
                self.free_numbers.push(number);
                lost += 1;
            }
        }
        self.unsent.clear();
        lost
    }

    fn take_unsent(&mut self) -> Bytes {
        std::mem::take(&mut self.unsent).into()
    }
}

impl Drop for InFlightMessages<'_> {
    /// Records the messages that are still in flight as unanswered.
    fn drop(&mut self) {
        let mut recorder = self.worker.recorder.borrow_mut();
        self.by_number.iter().flatten().for_each(|(slot, _)| recorder.record_unanswered(slot.due_at));
    }
}
