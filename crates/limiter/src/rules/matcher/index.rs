//! Finds the limits that could match a descriptor without scanning the book.
//!
//! Every limit is filed once, under its **anchor**: the positive condition (or `per` attribute) that the fewest other
//! limits share. A lookup returns the limits that are filed under the attributes of the descriptor. Each of them is
//! then tested in full. Therefore the index may return too many limits, but never too few.

mod most;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::super::rule_map::RuleMap;
use super::condition::{Compiled, address};
use super::route::Segment;

type Ids = Vec<u32>;
/// Limits that were found. Few need no allocation.
pub type Found = SmallVec<[u32; 8]>;

/// What a limit may be filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    Equal(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Net(IpNet),
    /// The literal segments of a route in order; `None` for any segment.
    Route(Vec<Option<Box<str>>>),
    /// The attribute is present.
    Present,
}

/// The tokens of a condition: every value that matches has one of them. Empty if there are no such tokens.
pub fn tokens(condition: &Compiled) -> Vec<Token> {
    match condition {
        Compiled::Equal(s) => vec![Token::Equal(s.clone())],
        Compiled::AnyOf(set) => set.iter().cloned().map(Token::Equal).collect(),
        Compiled::Prefix(s) => vec![Token::Prefix(s.clone())],
        Compiled::Suffix(s) => vec![Token::Suffix(s.clone())],
        Compiled::Cidr(nets) => nets.iter().copied().map(Token::Net).collect(),
        Compiled::Route(route) => vec![Token::Route(
            route
                .segments()
                .iter()
                .map(|segment| match segment {
                    Segment::Literal(literal) => Some(literal.clone()),
                    Segment::Any => None,
                })
                .collect(),
        )],
        Compiled::Pattern(_) | Compiled::Present(true) => vec![Token::Present],
        Compiled::Present(false) | Compiled::Not(_) => Vec::new(),
    }
}

/// Adds limits to those that were found. Most lists are empty.
#[inline]
fn add(out: &mut Found, ids: &[u32]) {
    if !ids.is_empty() {
        out.extend_from_slice(ids);
    }
}

/// The index of one domain.
#[derive(Debug, Default)]
pub struct Index {
    keys: RuleMap<Box<str>, KeyIndex>,
    always: Ids,
}

#[derive(Debug, Default)]
struct KeyIndex {
    equal: RuleMap<Box<str>, Ids>,
    /// By length, then text.
    prefixes: BTreeMap<usize, RuleMap<Box<str>, Ids>>,
    suffixes: BTreeMap<usize, RuleMap<Box<str>, Ids>>,
    /// By prefix length, then network address.
    nets: BTreeMap<(bool, u8), RuleMap<IpAddr, Ids>>,
    routes: RouteNode,
    present: Ids,
    /// The most steps of a look-up.
    look_up: usize,
}

#[derive(Debug, Default)]
struct RouteNode {
    literal: RuleMap<Box<str>, RouteNode>,
    any: Option<Box<RouteNode>>,
    ids: Ids,
}

impl Index {
    /// Files each limit. It is given by its possible anchors: an attribute, and the tokens that cover it.
    pub fn build(limits: &[Vec<(&str, Vec<Token>)>]) -> Self {
        let mut shared: RuleMap<(&str, &Token), usize> = RuleMap::default();
        for (key, tokens) in limits.iter().flatten() {
            for token in tokens {
                *shared.entry((key, token)).or_default() += 1;
            }
        }
        let mut index = Self::default();
        for (id, anchors) in (0u32..).zip(limits) {
            let crowd = |(key, tokens): &&(&str, Vec<Token>)| -> usize {
                tokens.iter().map(|t| shared.get(&(*key, t)).copied().unwrap_or(0)).sum()
            };
            match anchors.iter().min_by_key(crowd) {
                Some((key, tokens)) => {
                    let slot = index.keys.entry((*key).into()).or_default();
                    tokens.iter().for_each(|token| slot.file(token, id));
                }
                None => index.always.push(id),
            }
        }
        for slot in index.keys.values_mut() {
            slot.look_up = slot.most_look_up();
        }
        index
    }

    /// Sets `out` to every limit that could match, sorted, each once. Returns the steps.
    pub fn candidates(&self, entries: &[(&str, &str)], out: &mut Found) -> usize {
        let mut steps = 0;
        out.clear();
        add(out, &self.always);
        for (key, value) in entries {
            if let Some(slot) = self.keys.get(*key) {
                steps += slot.look_up;
                slot.candidates(value, out);
            }
        }
        out.sort_unstable();
        out.dedup();
        steps
    }
}

impl KeyIndex {
    fn file(&mut self, token: &Token, id: u32) {
        let ids = match token {
            Token::Equal(s) => self.equal.entry(s.clone()).or_default(),
            Token::Prefix(s) => self.prefixes.entry(s.len()).or_default().entry(s.clone()).or_default(),
            Token::Suffix(s) => self.suffixes.entry(s.len()).or_default().entry(s.clone()).or_default(),
            Token::Net(net) => {
                let by_length = self.nets.entry((net.addr().is_ipv4(), net.prefix_len())).or_default();
                by_length.entry(net.network()).or_default()
            }
            Token::Route(segments) => self.routes.file(segments),
            Token::Present => &mut self.present,
        };
        ids.push(id);
    }

    fn candidates(&self, value: &str, out: &mut Found) {
        add(out, &self.present);
        out.extend(self.equal.get(value).into_iter().flatten().copied());
        for (length, by_text) in &self.prefixes {
            out.extend(value.get(..*length).and_then(|s| by_text.get(s)).into_iter().flatten().copied());
        }
        for (length, by_text) in &self.suffixes {
            let start = value.len().checked_sub(*length);
            out.extend(
                start.and_then(|at| value.get(at..)).and_then(|s| by_text.get(s)).into_iter().flatten().copied(),
            );
        }
        if !self.nets.is_empty()
            && let Some(ip) = address(value)
        {
            for ((ipv4, length), by_network) in &self.nets {
                let net = IpNet::new(ip, *length).ok().filter(|_| ip.is_ipv4() == *ipv4);
                out.extend(net.and_then(|net| by_network.get(&net.network())).into_iter().flatten().copied());
            }
        }
        if let Some(path) = value.strip_prefix('/') {
            self.routes.candidates(path, out);
        }
    }
}

impl RouteNode {
    fn file(&mut self, segments: &[Option<Box<str>>]) -> &mut Ids {
        match segments {
            [] => &mut self.ids,
            [Some(literal), rest @ ..] => self.literal.entry(literal.clone()).or_default().file(rest),
            [None, rest @ ..] => self.any.get_or_insert_default().file(rest),
        }
    }

    /// Adds the limits of every pattern that is a prefix of `path`, segment by segment.
    fn candidates(&self, path: &str, out: &mut Found) {
        add(out, &self.ids);
        let (part, rest) = path.split_once('/').map_or((path, None), |(part, rest)| (part, Some(rest)));
        for node in self.literal.get(part).into_iter().chain(self.any.as_deref()) {
            match rest {
                Some(rest) => node.candidates(rest, out),
                None => add(out, &node.ids),
            }
        }
    }
}
