//! The part of Redis' `struct` library for Lua that the counter script uses: big-endian unsigned integers (`>`, `B`,
//! `I1` to `I8`).

use mlua::{Lua, MultiValue, Table, Value};

/// Creates the library's table.
pub fn table(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.set("pack", lua.create_function(pack)?)?;
    library.set("unpack", lua.create_function(unpack)?)?;
    Ok(library)
}

/// Returns the width of each field of a format, in bytes.
fn widths(format: &[u8]) -> mlua::Result<Vec<usize>> {
    let invalid = || mlua::Error::runtime("invalid format");
    let mut widths = Vec::new();
    let mut rest = format.strip_prefix(b">").ok_or_else(invalid)?;
    while let [code, after @ ..] = rest {
        rest = after;
        match (code, rest) {
            (b'B', _) => widths.push(1),
            (b'I', [digit @ b'1'..=b'8', after @ ..]) => {
                widths.push(usize::from(digit - b'0'));
                rest = after;
            }
            _ => return Err(invalid()),
        }
    }
    Ok(widths)
}

fn pack(lua: &Lua, (format, values): (mlua::LuaString, mlua::Variadic<f64>)) -> mlua::Result<mlua::LuaString> {
    let mut out = Vec::new();
    let mut values = values.iter();
    for width in widths(&format.as_bytes())? {
        let value =
            *values.next().ok_or_else(|| mlua::Error::runtime("bad argument: number expected, got no value"))?;
        // Redis' C code converts to a signed integer and writes its low bytes.
        #[expect(clippy::cast_possible_truncation, reason = "Redis truncates it too")]
        let bytes = (value as i64).to_be_bytes();
        out.extend_from_slice(&bytes[8 - width..]);
    }
    lua.create_string(out)
}

fn unpack(_: &Lua, (format, text, at): (mlua::LuaString, mlua::LuaString, Option<usize>)) -> mlua::Result<MultiValue> {
    let text = text.as_bytes();
    let mut at = at.unwrap_or(1).saturating_sub(1);
    let mut found = Vec::new();
    for width in widths(&format.as_bytes())? {
        let bytes = text.get(at..at + width).ok_or_else(|| mlua::Error::runtime("data string too short"))?;
        let value = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        #[expect(clippy::cast_precision_loss, reason = "all numbers of Lua 5.1 are doubles")]
        found.push(Value::Number(value as f64));
        at += width;
    }
    #[expect(clippy::cast_precision_loss, reason = "a position in a string")]
    found.push(Value::Number((at + 1) as f64));
    Ok(found.into_iter().collect())
}
