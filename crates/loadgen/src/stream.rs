//! `CheckStream`: as many messages under way on one stream as the plan says, answered in any order.

use std::rc::Rc;

use h2::client::SendRequest;
use hyper::body::Bytes;

use super::calls;
use super::client::{Load, PAUSE, head, http2, status_of};
use super::gate::Turn;
use super::record::Outcome;

/// One stream after the other, from the first message to the last answer: a server may end one in order, or go and come
/// back.
pub async fn messages(load: Rc<Load>, mut sender: SendRequest<Bytes>) {
    let mut window = Window::new(&load);
    loop {
        let why = match on_stream(&mut window, sender.clone()).await {
            Ok(None) => return,
            Ok(Some(status)) => format!("the stream ended: {status}"),
            Err(error) => error.to_string(),
        };
        let lost = window.lose();
        load.recorder.borrow_mut().lost(lost, || why);
        loop {
            if load.gate.is_over() {
                return;
            }
            match http2(&load.plan).await {
                Ok(new) => {
                    sender = new;
                    break;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Asks until everything was asked and answered, or the server ends the stream: with this status.
async fn on_stream(window: &mut Window<'_>, sender: SendRequest<Bytes>) -> Result<Option<String>, h2::Error> {
    let load = window.load;
    let mut sender = sender.ready().await?;
    let (answer, mut asked) = sender.send_request(head(&load.plan), false)?;
    // A server may answer nothing before it is asked something.
    match load.gate.next().await {
        Some(turn) => window.send(turn),
        None => return asked.send_data(Bytes::new(), true).map(|()| None),
    }
    window.fill();
    asked.send_data(window.take_out(), false)?;
    let answer = answer.await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut answers = answer.into_body();
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        window.fill();
        if !window.out.is_empty() {
            asked.send_data(window.take_out(), false)?;
        }
        if window.over && window.is_idle() {
            return asked.send_data(Bytes::new(), true).map(|()| None);
        }
        tokio::select! {
            chunk = answers.data(), if !window.is_idle() => {
                let Some(chunk) = chunk.transpose()? else { break };
                answers.flow_control().release_capacity(chunk.len())?;
                bytes.extend_from_slice(&chunk);
                let mut read = 0;
                while let Some((message, length)) = calls::message(&bytes[read..]) {
                    if let Some((number, outcome, error)) = calls::streamed(message) {
                        window.back(number, outcome, error);
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
    let trailers = answers.trailers().await?.unwrap_or_default();
    Ok(Some(status_of(status, &headers, &trailers)))
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

    fn back(&mut self, number: usize, outcome: Outcome, error: Option<String>) {
        if let Some((turn, key)) = self.asked.get_mut(number).and_then(Option::take) {
            self.free.push(number);
            let mut recorder = self.load.recorder.borrow_mut();
            if let Some(error) = error {
                recorder.failures.first.get_or_insert(error);
            }
            recorder.back(turn, std::iter::once((key, outcome)));
        }
    }

    /// What is under way is lost. Returns how many those are.
    fn lose(&mut self) -> u64 {
        let mut lost = 0;
        for number in 0..self.asked.len() {
            if self.asked[number].take().is_some() {
                self.free.push(number);
                lost += 1;
            }
        }
        self.out.clear();
        lost
    }

    fn take_out(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }
}

impl Drop for Window<'_> {
    /// What is under way then was never answered.
    fn drop(&mut self) {
        let mut recorder = self.load.recorder.borrow_mut();
        self.asked.iter().flatten().for_each(|(turn, _)| recorder.never(turn.intended));
    }
}
