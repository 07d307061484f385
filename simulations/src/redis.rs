//! A Redis server as far as the counter script needs one: strings with an expiry, a clock in the simulator's hands, a
//! replication id, and Lua 5.1, in which the script itself runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mlua::{Function, Lua, Table, Value, Variadic};

use super::structs;
use counter_script::{COUNTERS, FENCE, wire};
use limiter::counter::{Batch, BatchReply, StoreError};

/// A value, and the millisecond at which it expires.
pub type Stored = (Vec<u8>, u64);

/// What a server keeps, and may lose or hand to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub keys: BTreeMap<Vec<u8>, Stored>,
}

/// What the script sees of its server.
struct Inside {
    data: Data,
    /// Its keys by the millisecond at which they expire.
    ends: BTreeSet<(u64, Vec<u8>)>,
    now_us: u64,
    /// 40 hexadecimal digits.
    replication_id: String,
    primary: bool,
    /// Further keys are refused, as under `noeviction` when memory is full.
    full: bool,
    /// What was there before, of each write since it was last asked for.
    journal: Vec<(Vec<u8>, Option<Stored>)>,
}

/// The key that says that a server was replaced.
const FENCE_KEY: &[u8] = b"fence";

/// One server.
pub struct Redis {
    inside: Rc<RefCell<Inside>>,
    script: Function,
    fence: Function,
    lua: Lua,
}

/// How a script ended, where it did not answer with a batch's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Redis {
    /// An empty primary, whose replication id begins with these six hexadecimal digits.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub fn new(replication: u32) -> mlua::Result<Self> {
        Self::running(COUNTERS.text(), replication)
    }

    /// The same, with another script.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub fn running(script: &str, replication: u32) -> mlua::Result<Self> {
        let inside = Inside {
            data: Data::default(),
            ends: BTreeSet::new(),
            now_us: 0,
            replication_id: replication_id(replication),
            primary: true,
            full: false,
            journal: Vec::new(),
        };
        let (lua, inside) = (Lua::new(), Rc::new(RefCell::new(inside)));
        let globals = lua.globals();
        globals.set("struct", structs::table(&lua)?)?;
        let redis = lua.create_table()?;
        let of_calls = Rc::clone(&inside);
        let call =
            lua.create_function(move |lua, words: Variadic<mlua::LuaString>| of_calls.borrow_mut().call(lua, &words))?;
        redis.set("call", call)?;
        let error = |lua: &Lua, text: mlua::LuaString| {
            let reply = lua.create_table()?;
            reply.set("err", text)?;
            Ok(reply)
        };
        redis.set("error_reply", lua.create_function(error)?)?;
        globals.set("redis", redis)?;
        let script = lua.load(script).set_name("counters").into_function()?;
        let fence = lua.load(FENCE.text()).set_name("fence.lua").into_function()?;
        Ok(Self { inside, script, fence, lua })
    }

    /// From now on it is another incarnation: a replica that took over, or one that was started again.
    pub fn take_over(&self, replication: u32) {
        self.inside.borrow_mut().replication_id = replication_id(replication);
    }

    /// Whether it is a primary.
    pub fn set_primary(&self, primary: bool) {
        self.inside.borrow_mut().primary = primary;
    }

    /// Whether it refuses to write.
    pub fn set_full(&self, full: bool) {
        self.inside.borrow_mut().full = full;
    }

    /// A copy of what it keeps.
    pub fn data(&self) -> Data {
        self.inside.borrow().data.clone()
    }

    /// The keys that were written since this was last asked for, each with what was there before, in order.
    pub fn take_journal(&self) -> Vec<(Vec<u8>, Option<Stored>)> {
        std::mem::take(&mut self.inside.borrow_mut().journal)
    }

    /// Puts one key back as it was.
    pub fn put_back(&self, key: Vec<u8>, was: Option<Stored>) {
        self.inside.borrow_mut().put(&key, was);
    }

    /// Keeps this and nothing else.
    pub fn set_data(&self, data: Data) {
        let mut inside = self.inside.borrow_mut();
        inside.ends = data.keys.iter().map(|(key, (_, end))| (*end, key.clone())).collect();
        inside.data = data;
    }

    /// Runs a batch at an instant of its clock, in microseconds since the epoch.
    ///
    /// # Errors
    /// When nothing was applied, or it is not known.
    pub fn run(&self, batch: &Batch, now_us: u64) -> Result<BatchReply, StoreError> {
        let text = wire::encode_batch(batch, batch.items.iter());
        let keys = batch.items.iter().map(|item| &*item.key);
        match self.call(&self.script, keys, [&*text, FENCE_KEY], now_us) {
            Ok(Ok(answer)) => wire::decode_reply(&answer, batch.items.len()).map_err(|_| StoreError::Unknown),
            Ok(Err(Refused(_))) => Err(StoreError::NotApplied),
            Err(_) => Err(StoreError::Unknown),
        }
    }

    /// Tells it that a server of this replication id replaced it. Returns whether it counts no more.
    pub fn fence(&self, successor: u32, now_us: u64) -> bool {
        let id = replication_id(successor);
        let told = self.call(&self.fence, std::iter::once(FENCE_KEY), [id.as_bytes(), b"30000"], now_us);
        matches!(told, Ok(Ok(said)) if said == b"fenced")
    }

    fn call<'a, const N: usize>(
        &self,
        script: &Function,
        keys: impl Iterator<Item = &'a [u8]>,
        arguments: [&[u8]; N],
        now_us: u64,
    ) -> mlua::Result<Result<Vec<u8>, Refused>> {
        {
            let mut inside = self.inside.borrow_mut();
            inside.now_us = now_us;
            inside.expire();
        }
        let globals = self.lua.globals();
        let keys = keys.map(|key| self.lua.create_string(key)).collect::<mlua::Result<Vec<_>>>()?;
        globals.set("KEYS", keys)?;
        let arguments = arguments.map(|argument| self.lua.create_string(argument));
        globals.set("ARGV", arguments.into_iter().collect::<mlua::Result<Vec<_>>>()?)?;
        match script.call::<Value>(())? {
            Value::String(answer) => Ok(Ok(answer.as_bytes().to_vec())),
            Value::Table(reply) => Ok(Err(Refused(reply.get("err")?))),
            other => Ok(Err(Refused(format!("the script answered {}", other.type_name())))),
        }
    }
}

fn replication_id(begins: u32) -> String {
    format!("{:06x}{:034}", begins & 0x00ff_ffff, 0)
}

impl Inside {
    /// Keeps this under a key, or nothing; answers what was there before.
    fn put(&mut self, key: &[u8], value: Option<Stored>) -> Option<Stored> {
        let was = match value {
            Some(value) => {
                self.ends.insert((value.1, key.to_vec()));
                self.data.keys.insert(key.to_vec(), value)
            }
            None => self.data.keys.remove(key),
        };
        if let Some((_, end)) = was.as_ref().filter(|was| self.data.keys.get(key).is_none_or(|now| now.1 != was.1)) {
            self.ends.remove(&(*end, key.to_vec()));
        }
        was
    }

    /// Forgets what has expired.
    fn expire(&mut self) {
        let now_ms = self.now_us / 1000;
        while self.ends.first().is_some_and(|(end, _)| *end <= now_ms) {
            if let Some((_, key)) = self.ends.pop_first() {
                self.data.keys.remove(&key);
            }
        }
    }

    fn call(&mut self, lua: &Lua, words: &[mlua::LuaString]) -> mlua::Result<Value> {
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words[..] {
            [b"TIME"] => {
                let time = lua.create_table()?;
                time.set(1, (self.now_us / 1_000_000).to_string())?;
                time.set(2, (self.now_us % 1_000_000).to_string())?;
                Ok(Value::Table(time))
            }
            [b"INFO", b"replication"] => {
                let role = if self.primary { "master" } else { "slave" };
                let text = format!("# Replication\r\nrole:{role}\r\nmaster_replid:{}\r\n", self.replication_id);
                Ok(Value::String(lua.create_string(text)?))
            }
            [b"GET", key] => match self.data.keys.get(key) {
                Some((value, _)) => Ok(Value::String(lua.create_string(value)?)),
                None => Ok(Value::Boolean(false)),
            },
            [b"SET", key, value, b"PXAT", at] => {
                if self.full {
                    return Err(mlua::Error::runtime("OOM command not allowed when used memory > 'maxmemory'."));
                }
                let at = std::str::from_utf8(at).ok().and_then(|at| at.parse::<u64>().ok()).filter(|at| *at > 0);
                let at = at.ok_or_else(|| mlua::Error::runtime("ERR invalid expire time in 'set' command"))?;
                let was = self.put(key, Some((value.to_vec(), at)));
                self.journal.push((key.to_vec(), was));
                self.expire();
                let done: Table = lua.create_table()?;
                done.set("ok", "OK")?;
                Ok(Value::Table(done))
            }
            [b"SET", key, value, b"PX", _] => {
                // Simulations end before a fence does.
                let was = self.put(key, Some((value.to_vec(), u64::MAX)));
                self.journal.push((key.to_vec(), was));
                Ok(Value::Boolean(true))
            }
            [b"DEL", key] => {
                let was = self.put(key, None);
                let count = i64::from(was.is_some());
                self.journal.push((key.to_vec(), was));
                Ok(Value::Integer(count))
            }
            _ => Err(mlua::Error::runtime("ERR unknown command")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limiter::counter::{Ask, BatchOutcome, Counter, Debts, Grid, Item, ItemReply, SeenCells};
    use limiter::{BatchId, HolderId};

    const NOW: u64 = 1_767_225_600_000_000;

    fn run(redis: &Redis, now_us: u64) -> Result<Vec<ItemReply>, StoreError> {
        let grid = Grid::Fixed { width_ms: 1000 };
        let counter = Counter::Window {
            grid,
            limit: 5,
            seen: SeenCells::None,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
        };
        let item = Item { key: b"k".as_slice().into(), asks: vec![Ask { hits: 1, count: 1 }], counter };
        match redis
            .run(&Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] }, now_us)?
            .outcome
        {
            BatchOutcome::Ran(answers) => Ok(answers),
            BatchOutcome::Late => panic!("it has no end"),
        }
    }

    #[test]
    fn a_replica_writes_nothing_and_a_full_server_says_so_of_the_key() {
        let redis = Redis::new(7).unwrap();
        redis.set_primary(false);
        assert_eq!(run(&redis, NOW), Err(StoreError::NotApplied));
        redis.set_primary(true);
        redis.set_full(true);
        assert_eq!(run(&redis, NOW), Ok(vec![ItemReply::Failed]));
        assert_eq!(redis.data(), Data::default());
        redis.set_full(false);
        assert!(matches!(run(&redis, NOW).as_deref(), Ok([ItemReply::Done(_)])));
    }

    #[test]
    fn what_expires_is_gone() {
        let redis = Redis::new(7).unwrap();
        run(&redis, NOW).unwrap();
        assert_eq!(redis.data().keys.len(), 1);
        let empty = Batch { not_after: None, holder: HolderId(1), id: BatchId(2), items: Vec::new() };
        redis.run(&empty, NOW + 5_000_000).unwrap();
        assert_eq!(redis.data(), Data::default());
    }
}
