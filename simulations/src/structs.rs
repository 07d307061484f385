//! The part of Redis' `struct` library that the counter script uses: big-endian unsigned integers (`>`, `B`, `I1` to `I8`).

use mlua::{Lua, MultiValue, Table, Value};

/// The library's table.
pub fn table(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.set("pack", lua.create_function(pack)?)?;
    library.set("unpack", lua.create_function(unpack)?)?;
    Ok(library)
}

/// The widths in bytes of a format.
fn widths(format: &[u8]) -> mlua::Result<Vec<usize>> {
    let wrong = || mlua::Error::runtime("invalid format");
    let mut widths = Vec::new();
    let mut rest = format.strip_prefix(b">").ok_or_else(wrong)?;
    while let [code, after @ ..] = rest {
        rest = after;
        match (code, rest) {
            (b'B', _) => widths.push(1),
            (b'I', [digit @ b'1'..=b'8', after @ ..]) => {
                widths.push(usize::from(digit - b'0'));
                rest = after;
            }
            _ => return Err(wrong()),
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
        // As C does: through a signed integer, of which the low bytes are written.
        #[expect(clippy::cast_possible_truncation, reason = "what does not fit is cut, as in Redis")]
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
        #[expect(clippy::cast_precision_loss, reason = "Lua has doubles only")]
        found.push(Value::Number(value as f64));
        at += width;
    }
    #[expect(clippy::cast_precision_loss, reason = "a place in a text")]
    found.push(Value::Number((at + 1) as f64));
    Ok(found.into_iter().collect())
}
