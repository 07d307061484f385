-- The compact path, which serves most items without creating a table or a closure.
--
-- It serves a compact item of a window (one run of asks, or one return, or both) if the key has no record, or a record
-- of one cell that the current incarnation alone has charged, and of what other regions charged to it. It leaves every
-- other case to the general path. Where both paths could serve an item, they write the same bytes.

-- What merges the entries of other regions (shared.lua), once an item needs it.
local shared
local now_ms = (now - now % 1000) / 1000

-- Returns the reply to a compact item. Returns nothing, and has changed nothing, if the general path must serve the
-- item. `position` is where the item begins in the batch, behind its kind.
local function serve_compact(key, kind, position)
  local window_ms, older_cells, limit, want, holders, min_left_us
  local has_ask, hits, count = kind >= HAS_ASK, 0, 0
  local seen_ms, seen_incarnation, seen_charged, seen_returned, seen_others
  local return_ms, return_incarnation, return_tokens
  window_ms, older_cells, limit, want, holders, min_left_us, position = unpack('>I6BI7I4I4I7', batch, position)
  local width_ms = window_ms
  if older_cells > 0 then
    -- Small limits have a log.
    if limit <= MAX_LOGGED_LIMIT then return end
    width_ms = window_ms + older_cells - 1
    width_ms = (width_ms - width_ms % older_cells) / older_cells
  end
  if has_ask then hits, count, position = unpack('>I6I4', batch, position) end
  if kind % (2 * HAS_SEEN) >= HAS_SEEN then
    seen_ms, seen_incarnation, seen_charged, seen_returned, position = unpack('>I6I6I7I7', batch, position)
  end
  if kind % (2 * HAS_OTHERS) >= HAS_OTHERS then
    local size = unpack('>B', batch, position) * OTHER_SIZE
    seen_others, position = string.sub(batch, position + 1, position + size), position + 1 + size
  end
  if kind % (2 * HAS_RETURN) >= HAS_RETURN then
    return_ms, return_incarnation, return_tokens = unpack('>I6I6I7', batch, position)
  end
  -- Short records hold the beginning of a cell in seconds.
  local start_ms = now_ms - now_ms % width_ms
  if start_ms % 1000 ~= 0 or start_ms >= U32_RANGE * 1000 then return end
  local end_ms, oldest_ms = start_ms + width_ms, start_ms - width_ms * older_cells

  local stored = call('GET', key)
  -- `has_cell` is true if the record or the node knows the current cell.
  local incarnation, charged, returned, others, has_cell = new_incarnation, 0, 0, '', false
  -- The only entry of the replay guard, if there is one.
  local applied_holder, applied_batch, applied_end
  if stored then
    -- RECORD_TINY has 12 bytes. RECORD_SINGLE has 19, or 38 with one entry of the replay guard. RECORD_SHARED has 19
    -- and the entries of other regions, and RECORD_GUARDED has 38 and those entries.
    local size, record_kind, cell_second = #stored
    if size == 12 then
      record_kind, incarnation, cell_second, charged = unpack('>BI6I4B', stored)
      if record_kind ~= RECORD_TINY then return end
    elseif size >= 19 then
      record_kind, incarnation, cell_second, charged, returned = unpack('>BI6I4I4I4', stored)
      if record_kind == RECORD_SHARED then
        others = string.sub(stored, 20)
      elseif record_kind == RECORD_GUARDED or (record_kind == RECORD_SINGLE and size == 38) then
        applied_holder, applied_batch, applied_end = unpack('>I6I6I7', stored, 20)
        if applied_end < now then applied_holder = nil end
        others = string.sub(stored, 39)
      elseif record_kind ~= RECORD_SINGLE or size > 19 then
        return
      end
    else
      return
    end
    if incarnation % REPLICATION_MARKS ~= replication_mark then return end
    local cell_ms = cell_second * 1000
    has_cell = cell_ms == start_ms
    if not has_cell then
      if cell_ms >= oldest_ms then return end
      charged, returned, others = 0, 0, ''
    end
  end
  if seen_ms == start_ms then
    if seen_incarnation ~= incarnation or seen_charged == 0 then return end
    if seen_charged > charged then charged = seen_charged end
    if seen_returned > returned then returned = seen_returned end
    if seen_others and seen_others ~= others then
      shared = shared or load_part('shared')
      others = shared.merge(others, seen_others)
      if not others then return end
    end
    has_cell = true
  elseif seen_ms and seen_ms >= oldest_ms then
    return
  end
  if return_ms then
    if not has_cell or return_ms ~= start_ms or return_incarnation ~= incarnation then return end
    -- This is `accept_once` of the replay guard, for at most one holder.
    local accepted = has_end
    if has_end and applied_holder == holder then
      accepted = batch_id > applied_batch
    elseif has_end and applied_holder then
      return
    end
    if accepted then
      if not applied_holder or not_after > applied_end then applied_end = not_after end
      applied_holder, applied_batch = holder, batch_id
      returned = returned + return_tokens
      if returned > charged then returned = charged end
    end
  end

  local used = charged > returned and charged - returned or 0
  for at = 1, #others, OTHER_SIZE do
    local _, _, other_charged, other_returned = unpack(OTHER_FORMAT, others, at)
    if other_charged > other_returned then used = used + other_charged - other_returned end
  end
  -- A counter without a limit denies nothing, however much is counted.
  local available = limit
  if limit < MAX_COUNT then available = limit > used and limit - used or 0 end
  local tokens, reply = hits * count, has_ask and COMPACT_GRANTED or COMPACT_RETURNED
  if has_ask and (tokens > available or available == 0) then
    -- The general path serves a run of which a part is granted, and computes when an ask fits into a window that
    -- slides.
    local least = hits > 0 and hits or 1
    if older_cells > 0 or least <= available then return end
    -- Instead of the asks that were granted, the reply counts the ends of the window at which one would fit.
    reply, tokens, count = COMPACT_DENIED, 0, least <= limit and 1 or 0
  end
  if want > 0 and end_ms * 1000 - now >= min_left_us then
    local lease = (available - tokens) / (2 * (holders > 0 and holders or 1))
    lease = lease - lease % 1
    if lease < want then want = lease end
  else
    want = 0
  end
  tokens = tokens + want
  charged, used = charged + tokens, used + tokens
  if charged == 0 or charged >= U32_RANGE or (tokens == 0 and not has_cell) then return end
  local record
  if applied_holder then
    local shape = others == '' and RECORD_SINGLE or RECORD_GUARDED
    record = pack('>BI6I4I4I4I6I6I7', shape, incarnation, start_ms / 1000, charged, returned, applied_holder,
      applied_batch, applied_end) .. others
  elseif others ~= '' then
    record = pack('>BI6I4I4I4', RECORD_SHARED, incarnation, start_ms / 1000, charged, returned) .. others
  elseif returned > 0 or charged > 255 then
    record = pack('>BI6I4I4I4', RECORD_SINGLE, incarnation, start_ms / 1000, charged, returned)
  else
    record = pack('>BI6I4B', RECORD_TINY, incarnation, start_ms / 1000, charged)
  end
  local expires_ms, reset_at = end_ms + older_cells * width_ms, now
  if used > 0 then reset_at = expires_ms * 1000 end
  if record ~= stored then call('SET', key, record, 'PXAT', format_ms(expires_ms)) end
  if others ~= '' then reply = reply + WITH_OTHERS end
  reply = pack('>BI4I4I7I7I6I6I6I7I7', reply, count, want, available - tokens, reset_at, incarnation, start_ms, end_ms,
    charged, returned)
  if others == '' then return reply end
  return reply .. pack('>B', #others / OTHER_SIZE) .. others
end
