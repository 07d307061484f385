//! `CheckStream`: as many messages under way on one stream as the plan says, answered in any order.

use std::rc::Rc;

use h2::client::SendRequest;
use hyper::body::Bytes;

use super::calls;
use super::client::{Load, head, http2};
use super::gate::Turn;
use super::record::Outcome;

/// One stream after the other, from the first message to the last answer: a server may end one in order.
pub async fn messages(load: Rc<Load>, mut sender: SendRequest<Bytes>) {
    loop {
        match on_stream(&load, sender).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => load.lost(&error),
        }
        match http2(&load.plan).await {
            Ok(new) => sender = new,
            Err(error) => return load.lost(&error),
        }
    }
}

/// Whether everything was asked and answered.
async fn on_stream(load: &Load, sender: SendRequest<Bytes>) -> Result<bool, h2::Error> {
    let mut sender = sender.ready().await?;
    let (answer, mut asked) = sender.send_request(head(&load.plan), false)?;
    let mut window = Window::new(load);
    // A server may answer nothing before it is asked something.
    match load.gate.next().await {
        Some(turn) => window.send(turn),
        None => return asked.send_data(Bytes::new(), true).map(|()| true),
    }
    window.fill();
    asked.send_data(window.take_out(), false)?;
    let mut answers = answer.await?.into_body();
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        window.fill();
        if !window.out.is_empty() {
            asked.send_data(window.take_out(), false)?;
        }
        if window.over && window.is_idle() {
            return asked.send_data(Bytes::new(), true).map(|()| true);
        }
        tokio::select! {
            chunk = answers.data(), if !window.is_idle() => {
                let Some(chunk) = chunk.transpose()? else { break };
                answers.flow_control().release_capacity(chunk.len())?;
                bytes.extend_from_slice(&chunk);
                let mut read = 0;
                while let Some((message, length)) = calls::message(&bytes[read..]) {
                    if let Some((number, outcome)) = calls::streamed(message) {
                        window.back(number, outcome);
                    }
                    read += length;
                }
                bytes.drain(..read);
            }
            turn = load.gate.next(), if !window.over && !window.free.is_empty() => match turn {
                Some(turn) => window.send(turn),
                None => window.over = true,
            },
            else => break,
        }
    }
    // The server ended the stream: what it left unanswered is lost.
    let trailers = answers.trailers().await?.unwrap_or_default();
    let mut recorder = load.recorder.borrow_mut();
    let lost = window.asked.iter().flatten().count();
    if lost > 0 {
        recorder.failures.connection += lost as u64;
        recorder.failures.first.get_or_insert_with(|| format!("the stream ended: {trailers:?}"));
    }
    Ok(false)
}

/// The messages under way.
struct Window<'a> {
    load: &'a Load,
    /// What was asked under each number.
    asked: Vec<Option<(Turn, u64)>>,
    free: Vec<usize>,
    /// Written, and not sent.
    out: Vec<u8>,
    /// There are no more turns.
    over: bool,
}

impl<'a> Window<'a> {
    fn new(load: &'a Load) -> Self {
        let size = load.plan.in_flight.max(1) as usize;
        Self { load, asked: vec![None; size], free: (0..size).rev().collect(), out: Vec::new(), over: false }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.asked.len()
    }

    fn send(&mut self, turn: Turn) {
        let key = self.load.keys(turn).first().copied().unwrap_or(0);
        if let Some(number) = self.free.pop() {
            self.asked[number] = Some((turn, key));
            self.load.plan.question.push_to_stream(key, number, &mut self.out);
        }
    }

    /// Sends what is due and fits.
    fn fill(&mut self) {
        while !self.free.is_empty()
            && let Some(turn) = self.load.gate.next_now()
        {
            self.send(turn);
        }
    }

    fn back(&mut self, number: usize, outcome: Outcome) {
        if let Some((turn, key)) = self.asked.get_mut(number).and_then(Option::take) {
            self.free.push(number);
            self.load.recorder.borrow_mut().back(turn, std::iter::once((key, outcome)));
        }
    }

    fn take_out(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }
}
