//! Which lines of a script ran.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use mlua::{Function, HookTriggers, Lua, VmState};

/// The lines of one script, from 1.
pub struct Lines {
    all: BTreeSet<u32>,
    ran: Rc<RefCell<BTreeSet<u32>>>,
}

impl Lines {
    /// Begins to note which lines of `script` run.
    ///
    /// # Errors
    /// Returns an error if the hook cannot be set, or if the compiled form of the script cannot be read.
    pub(super) fn watch(lua: &Lua, script: &Function) -> mlua::Result<Self> {
        let mut all = BTreeSet::new();
        let code = script.dump(false);
        // The header has 12 bytes.
        let read = code.get(12..).and_then(|functions| Reader(functions).function(&mut all));
        read.ok_or_else(|| mlua::Error::runtime("the compiled script cannot be read"))?;
        let ran = Rc::new(RefCell::new(BTreeSet::new()));
        let notes = Rc::clone(&ran);
        lua.set_hook(HookTriggers::EVERY_LINE, move |_, place| {
            notes.borrow_mut().extend(place.current_line().and_then(|line| u32::try_from(line).ok()));
            Ok(VmState::Continue)
        })?;
        Ok(Self { all, ran })
    }

    /// The lines with code that did not run.
    pub fn that_did_not_run(&self) -> Vec<u32> {
        self.all.difference(&self.ran.borrow()).copied().collect()
    }
}

/// Reads functions in the form of `string.dump` of Lua 5.1, on a machine of 64 bits with the lowest byte first
/// (`ldump.c`).
struct Reader<'c>(&'c [u8]);

impl Reader<'_> {
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn int(&mut self) -> Option<u32> {
        let (int, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*int))
    }

    fn text(&mut self) -> Option<()> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        self.skip(usize::try_from(u64::from_le_bytes(*length)).ok()?)
    }

    fn list(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        (0..self.int()?).try_for_each(|_| element(self))
    }

    /// Adds the lines with code of a function, and of those within it.
    fn function(&mut self, lines: &mut BTreeSet<u32>) -> Option<()> {
        self.text()?;
        // The first and the last line, and four numbers of one byte.
        self.skip(4 + 4 + 4)?;
        self.list(|instruction| instruction.skip(4))?;
        self.list(|constant| {
            let kind = *constant.0.first()?;
            constant.skip(1)?;
            match kind {
                0 => Some(()),
                1 => constant.skip(1),
                3 => constant.skip(8),
                4 => constant.text(),
                _ => None,
            }
        })?;
        self.list(|inner| inner.function(lines))?;
        let mut own = Vec::new();
        self.list(|instruction| {
            own.push(instruction.int()?);
            Some(())
        })?;
        // The last one returns at the end of the function, even if nothing gets there.
        own.pop();
        lines.extend(own);
        self.list(|local| local.text().and_then(|()| local.skip(8)))?;
        self.list(Self::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_did_not_run_are_found_also_in_functions_that_were_not_called() {
        let lua = Lua::new();
        let text = "local a, b = 1, 'x'\nlocal function never()\n  return 2.5, nil, true\nend\nif a > 1 then\n  a = 3\nend\nreturn a, b";
        let script = lua.load(text).into_function().unwrap();
        let lines = Lines::watch(&lua, &script).unwrap();
        assert_eq!(lines.that_did_not_run(), [1, 3, 4, 5, 6, 8]);
        script.call::<()>(()).unwrap();
        assert_eq!(lines.that_did_not_run(), [3, 6]);
    }
}
