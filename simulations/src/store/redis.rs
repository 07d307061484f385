//! The part of a Redis server that the counter script needs: strings with an expiry, a clock that the simulator sets, a
//! replication id, and Lua 5.1, which runs the script itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mlua::{Function, Lua, Table, Value, Variadic};

use super::lines::Lines;
use super::lua_struct;
use counter_script::{COUNTERS, FENCE, wire};
use limiter::counter::{Batch, BatchReply, StoreError};

/// A value and its expiry, in milliseconds since the Unix epoch.
pub type Stored = (Vec<u8>, u64);

/// The data of a server. Faults may remove some of it or move it to another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub keys: BTreeMap<Vec<u8>, Stored>,
}

/// The state of a server that the script reads and writes.
struct State {
    data: Data,
    /// The keys by their expiry.
    expiries: BTreeSet<(u64, Vec<u8>)>,
    now_us: u64,
    /// 40 hexadecimal digits, as in Redis.
    replication_id: String,
    is_primary: bool,
    /// True if the server accepts no writes, as with `noeviction` when its memory is full.
    full: bool,
    /// The key and the previous value of each write since [`Redis::take_journal`] was called.
    journal: Vec<(Vec<u8>, Option<Stored>)>,
}

/// The key that marks a replaced server.
const FENCE_KEY: &[u8] = b"fence";

/// A Redis server.
pub struct Redis {
    state: Rc<RefCell<State>>,
    script: Function,
    fence: Function,
    lua: Lua,
}

/// An error that a script returned instead of a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(pub String);

impl Redis {
    /// Creates an empty primary. The lowest 24 bits of `replication` become the first six hexadecimal digits of its
    /// replication id.
    ///
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn new(replication: u32) -> mlua::Result<Self> {
        Self::with_script(COUNTERS.text(), replication)
    }

    /// Creates an empty primary that runs another script.
    ///
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn with_script(script: &str, replication: u32) -> mlua::Result<Self> {
        let state = State {
            data: Data::default(),
            expiries: BTreeSet::new(),
            now_us: 0,
            replication_id: replication_id(replication),
            is_primary: true,
            full: false,
            journal: Vec::new(),
        };
        let (lua, state) = (Lua::new(), Rc::new(RefCell::new(state)));
        let globals = lua.globals();
        globals.set("struct", lua_struct::table(&lua)?)?;
        let redis = lua.create_table()?;
        let called = Rc::clone(&state);
        let call =
            lua.create_function(move |lua, words: Variadic<mlua::LuaString>| called.borrow_mut().call(lua, &words))?;
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
        Ok(Self { state, script, fence, lua })
    }

    /// Begins to note which lines of the counter script run.
    ///
    /// # Errors
    /// Returns an error if the Lua library does not allow it.
    pub fn watch_lines(&self) -> mlua::Result<Lines> {
        Lines::watch(&self.lua, &self.script)
    }

    /// Changes the replication id, as when a replica takes over or a server restarts. The server is then a new
    /// incarnation.
    pub fn set_replication_id(&self, replication: u32) {
        self.state.borrow_mut().replication_id = replication_id(replication);
    }

    /// Sets whether the server is a primary.
    pub fn set_primary(&self, primary: bool) {
        self.state.borrow_mut().is_primary = primary;
    }

    /// Sets whether the server accepts no writes.
    pub fn set_full(&self, full: bool) {
        self.state.borrow_mut().full = full;
    }

    /// Returns a copy of the data.
    pub fn data(&self) -> Data {
        self.state.borrow().data.clone()
    }

    /// Returns the key and the previous value of each write since the last call, in order.
    pub fn take_journal(&self) -> Vec<(Vec<u8>, Option<Stored>)> {
        std::mem::take(&mut self.state.borrow_mut().journal)
    }

    /// Sets one key to a value, or removes it.
    pub fn restore(&self, key: Vec<u8>, value: Option<Stored>) {
        self.state.borrow_mut().put(&key, value);
    }

    /// Replaces all the data.
    pub fn set_data(&self, data: Data) {
        let mut state = self.state.borrow_mut();
        state.expiries = data.keys.iter().map(|(key, (_, end))| (*end, key.clone())).collect();
        state.data = data;
    }

    /// Runs a batch. `now_us` is the server's clock, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns an error if nothing was applied, or if that is unknown.
    pub fn run(&self, batch: &Batch, now_us: u64) -> Result<BatchReply, StoreError> {
        let text = wire::encode_batch(batch, batch.items.iter());
        let keys = wire::keys(b"", batch.items.iter());
        match self.call(&self.script, keys.iter().map(Vec::as_slice), [&*text, FENCE_KEY], now_us) {
            Ok(Ok(reply)) => wire::decode_reply(&reply, batch.items.len()).map_err(|_| StoreError::Unknown),
            Ok(Err(ScriptError(_))) => Err(StoreError::NotApplied),
            Err(_) => Err(StoreError::Unknown),
        }
    }

    /// Tells the server that a server with the replication id `successor` replaced it. Returns true if it no longer
    /// grants.
    pub fn fence(&self, successor: u32, now_us: u64) -> bool {
        let id = replication_id(successor);
        let reply = self.call(&self.fence, std::iter::once(FENCE_KEY), [id.as_bytes(), b"30000"], now_us);
        matches!(reply, Ok(Ok(text)) if text == b"fenced")
    }

    fn call<'a, const N: usize>(
        &self,
        script: &Function,
        keys: impl Iterator<Item = &'a [u8]>,
        arguments: [&[u8]; N],
        now_us: u64,
    ) -> mlua::Result<Result<Vec<u8>, ScriptError>> {
        {
            let mut state = self.state.borrow_mut();
            state.now_us = now_us;
            state.remove_expired();
        }
        let globals = self.lua.globals();
        let keys = keys.map(|key| self.lua.create_string(key)).collect::<mlua::Result<Vec<_>>>()?;
        globals.set("KEYS", keys)?;
        let arguments = arguments.map(|argument| self.lua.create_string(argument));
        globals.set("ARGV", arguments.into_iter().collect::<mlua::Result<Vec<_>>>()?)?;
        match script.call::<Value>(())? {
            Value::String(reply) => Ok(Ok(reply.as_bytes().to_vec())),
            Value::Table(reply) => Ok(Err(ScriptError(reply.get("err")?))),
            other => Ok(Err(ScriptError(format!("the script returned {}", other.type_name())))),
        }
    }
}

fn replication_id(begins: u32) -> String {
    format!("{:06x}{:034}", begins & 0x00ff_ffff, 0)
}

impl State {
    /// Sets a key to a value, or removes it. Returns the previous value.
    fn put(&mut self, key: &[u8], value: Option<Stored>) -> Option<Stored> {
        let was = match value {
            Some(value) => {
                self.expiries.insert((value.1, key.to_vec()));
                self.data.keys.insert(key.to_vec(), value)
            }
            None => self.data.keys.remove(key),
        };
        if let Some((_, end)) = was.as_ref().filter(|was| self.data.keys.get(key).is_none_or(|now| now.1 != was.1)) {
            self.expiries.remove(&(*end, key.to_vec()));
        }
        was
    }

    /// Removes the keys that have expired.
    fn remove_expired(&mut self) {
        let now_ms = self.now_us / 1000;
        while self.expiries.first().is_some_and(|(end, _)| *end <= now_ms) {
            if let Some((_, key)) = self.expiries.pop_first() {
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
                let role = if self.is_primary { "master" } else { "slave" };
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
                self.remove_expired();
                let done: Table = lua.create_table()?;
                done.set("ok", "OK")?;
                Ok(Value::Table(done))
            }
            [b"SET", key, value] => {
                if self.full {
                    return Err(mlua::Error::runtime("OOM command not allowed when used memory > 'maxmemory'."));
                }
                let was = self.put(key, Some((value.to_vec(), u64::MAX)));
                self.journal.push((key.to_vec(), was));
                Ok(Value::Boolean(true))
            }
            [b"SET", key, value, b"PX", _] => {
                // A simulation ends before its fences expire.
                let was = self.put(key, Some((value.to_vec(), u64::MAX)));
                self.journal.push((key.to_vec(), was));
                Ok(Value::Boolean(true))
            }
            [b"PTTL", key] => {
                let left =
                    |(_, end): &Stored| i64::try_from(end.saturating_sub(self.now_us / 1000)).unwrap_or(i64::MAX);
                Ok(Value::Integer(self.data.keys.get(key as &[u8]).map_or(-2, left)))
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
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        };
        let asks = vec![Ask { hits: 1, count: 1, overdraft: false }];
        let item = Item { key: b"k".as_slice().into(), asks, refund: 0, counter };
        match redis
            .run(&Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] }, now_us)?
            .outcome
        {
            BatchOutcome::Ran(answers) => Ok(answers),
            BatchOutcome::Late => panic!("the batch has no `not_after`"),
        }
    }

    #[test]
    fn a_replica_applies_nothing_and_a_full_server_fails_each_item() {
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
    fn expired_keys_are_removed() {
        let redis = Redis::new(7).unwrap();
        run(&redis, NOW).unwrap();
        assert_eq!(redis.data().keys.len(), 1);
        let empty = Batch { not_after: None, holder: HolderId(1), id: BatchId(2), items: Vec::new() };
        redis.run(&empty, NOW + 5_000_000).unwrap();
        assert_eq!(redis.data(), Data::default());
    }
}
