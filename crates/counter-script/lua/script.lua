-- Tidegate's counters, version 1: what limiter/counter.rs does with a batch, on the server's own clock.
--
-- KEYS are the counters' keys, all of one slot, ARGV[1] is the batch, and ARGV[2], where there is one, the key of the
-- server's fence; the answer is one string. wire.rs beside this file says how they are written. A key takes one GET and one SET at most; whatever goes wrong with it hurts no other. All figures are
-- integers below 2^53, which Lua's numbers hold exactly.
--
-- A record begins with a byte: version in the high half, shape in the low. 1 to 3 and 5 are windows: `tiny` (one cell of
-- whole seconds that the key's incarnation charged, in 12 bytes, which is what most keys are), `single` (the same, with what
-- went back), `plain` (several such cells) and `full`; 4 is a bucket.
--
-- Most items are of one kind: a run of asks, or a lease's end, of a window of one cell that one incarnation has charged. `serve_brief`
-- does these and no others, and leaves what it does not understand, untouched, to `whole`, which does every item. Where
-- both could serve, they do the same. What `whole` needs is made when it is first called: its closures and tables would be
-- a third of the cost of most batches.
local VERSION = 1
local TINY, PLAIN, FULL, BUCKET, SINGLE = VERSION * 16 + 1, VERSION * 16 + 2, VERSION * 16 + 3, VERSION * 16 + 4, VERSION * 16 + 5
-- Those of window.rs, counter.rs, debts.rs, repeats.rs and token_bucket.rs.
local WEIGHT_ONE, MAX_LIMIT, MAX_COUNT, MAX_ENTRIES, FLOOR = 65536, 68719476736, 4503599627370496, 32, 281474976710655
local MARKS, MAX_REPEATS, MAX_DEBTS, TICKS = 16777216, 64, 128, 1048576
-- What a brief item adds to the kind of its window, and what says that it has seen a cell, gives back to one, and asks.
local BRIEF, SEEN, BACK, ASKS = 16, 32, 64, 128
local FAILED, OUT_OF_BOUNDS, WINDOW_DONE, BUCKET_DONE, BRIEF_DONE, BRIEF_TAKEN = 0, 1, 2, 3, 4, 5

local pack, unpack, call, pcall = struct.pack, struct.unpack, redis.call, pcall
local batch = ARGV[1]

local version, holder, number, not_after, at = unpack('>BI6I6I7', batch)
if version ~= VERSION then
  return redis.error_reply('TIDEGATE this script is version ' .. VERSION .. ', the batch is version ' .. version)
end
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
-- 0 says that the batch has no end; else it is one more than the end.
local ends = not_after > 0
not_after = not_after - 1
if ends and now > not_after then
  return pack('>BBI7', VERSION, 0, now)
end
local replication = call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then
  return redis.error_reply('READONLY this server is a replica')
end
local _, id = string.find(replication, 'master_replid:', 1, true)
local mark = tonumber(string.sub(replication, id + 1, id + 6), 16)
-- fence.lua
if ARGV[2] and call('GET', ARGV[2]) == string.sub(replication, id + 1, id + 40) then
  return redis.error_reply('TIDEGATE another server replaced this one as the primary')
end

-- At::begins, At::goes_on
local begins = (holder + number) % MARKS * MARKS + mark
if begins == 0 then begins = 1 elseif begins == FLOOR then begins = FLOOR - 1 end

-- An instant in milliseconds as Redis reads it; most keys of a batch expire together, and to write a number is dear.
local written, as_text
local function milliseconds(ms)
  if ms ~= written then written, as_text = ms, string.format('%.0f', ms) end
  return as_text
end

-- The answer to a brief item, or nothing where it is not so simple.
local now_ms = (now - now % 1000) / 1000
local function serve_brief(key, kind, at)
  local width, older, limit, want, holders, min_left
  local asks, hits, count = kind >= ASKS, 0, 0
  local seen_ms, seen_source, seen_charged, seen_returned
  local back_ms, back_source, back
  width, older, limit, want, holders, min_left, at = unpack('>I6BI7I4I4I7', batch, at)
  if asks then hits, count, at = unpack('>I6I4', batch, at) end
  if kind % (2 * SEEN) >= SEEN then seen_ms, seen_source, seen_charged, seen_returned, at = unpack('>I6I6I7I7', batch, at) end
  if kind % (2 * BACK) >= BACK then back_ms, back_source, back = unpack('>I6I6I7', batch, at) end
  local from = now_ms - now_ms % width
  if from % 1000 ~= 0 or from >= 4294967296000 then return end
  local to, oldest = from + width, from - width * older

  local stored = call('GET', key)
  local incarnation, charged, returned, here = begins, 0, 0, false
  local who, last, till
  if stored then
    local size, shape, begun = #stored
    if size == 12 then
      shape, incarnation, begun, charged = unpack('>BI6I4B', stored)
      if shape ~= TINY then return end
    elseif size == 19 or size == 38 then
      shape, incarnation, begun, charged, returned = unpack('>BI6I4I4I4', stored)
      if shape ~= SINGLE then return end
      if size == 38 then
        who, last, till = unpack('>I6I6I7', stored, 20)
        if till < now then who = nil end
      end
    else
      return
    end
    if incarnation % MARKS ~= mark then return end
    begun = begun * 1000
    here = begun == from
    if not here then
      if begun >= oldest then return end
      charged, returned = 0, 0
    end
  end
  if seen_ms == from then
    if seen_source ~= incarnation or seen_charged == 0 then return end
    if seen_charged > charged then charged = seen_charged end
    if seen_returned > returned then returned = seen_returned end
    here = true
  elseif seen_ms and seen_ms >= oldest then
    return
  end
  if back_ms then
    if not here or back_ms ~= from or back_source ~= incarnation then return end
    local first = ends
    if ends and who == holder then
      first = number > last
    elseif ends and who then
      return
    end
    if first then
      if not who or not_after > till then till = not_after end
      who, last = holder, number
      returned = returned + back
      if returned > charged then returned = charged end
    end
  end

  local available, used = limit, charged > returned and charged - returned or 0
  if limit < MAX_COUNT then available = limit > used and limit - used or 0 end
  local tokens = hits * count
  -- Whoever is refused is told when to come again.
  if asks and (tokens > available or available == 0) then return end
  if want > 0 and to * 1000 - now >= min_left then
    local lease = (available - tokens) / (2 * (holders > 0 and holders or 1))
    lease = lease - lease % 1
    if lease < want then want = lease end
  else
    want = 0
  end
  tokens = tokens + want
  charged, used = charged + tokens, used + tokens
  if charged == 0 or charged >= 4294967296 or (tokens == 0 and not here) then return end
  local text
  if who then
    text = pack('>BI6I4I4I4I6I6I7', SINGLE, incarnation, from / 1000, charged, returned, who, last, till)
  elseif returned > 0 or charged > 255 then
    text = pack('>BI6I4I4I4', SINGLE, incarnation, from / 1000, charged, returned)
  else
    text = pack('>BI6I4B', TINY, incarnation, from / 1000, charged)
  end
  local expires, reset = to + older * width, now
  if used > 0 then reset = expires * 1000 end
  if text ~= stored then call('SET', key, text, 'PXAT', milliseconds(expires)) end
  return pack('>BI4I4I7I7I6I6I6I7I7', asks and BRIEF_DONE or BRIEF_TAKEN, count, want, available - tokens, reset, incarnation,
    from, to, charged, returned)
end

local function whole()
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

local function goes_on(incarnation)
  if incarnation % MARKS == mark then return incarnation end
  return begins
end

-- repeats.rs: a list of { holder, number, end }.
local function prune(taken)
  local kept = {}
  for _, batch in ipairs(taken) do
    if batch[3] >= now then kept[#kept + 1] = batch end
  end
  return kept
end

local function is_first(taken)
  if not ends then return false end
  for _, last in ipairs(taken) do
    if last[1] == holder then
      if number <= last[2] then return false end
      last[2], last[3] = number, max(last[3], not_after)
      return true
    end
  end
  if #taken >= MAX_REPEATS then return false end
  taken[#taken + 1] = { holder, number, not_after }
  return true
end

local function read_taken(text, at)
  local taken, count = {}
  count, at = unpack('>B', text, at)
  for i = 1, count do
    local who, which, last
    who, which, last, at = unpack('>I6I6I7', text, at)
    taken[i] = { who, which, last }
  end
  return taken, at
end

local function write_taken(out, taken)
  out[#out + 1] = pack('>B', #taken)
  for _, batch in ipairs(taken) do out[#out + 1] = pack('>I6I6I7', batch[1], batch[2], batch[3]) end
end

-- counter.rs: asks are a list of { hits, count }, granted whole and in order.
local function read_asks(text, at)
  local asks, count = {}
  count, at = unpack('>I2', text, at)
  for i = 1, count do
    local hits, times
    hits, times, at = unpack('>I6I4', text, at)
    asks[i] = { hits, times }
  end
  return asks, at
end

local function share_out(asks, available)
  local counts, taken = {}, 0
  for i, ask in ipairs(asks) do
    local hits, count = ask[1], ask[2]
    local left = available - taken
    if hits > 0 then
      count = min(floor(left / hits), count)
    elseif left == 0 then
      count = 0
    end
    taken = taken + count * hits
    counts[i] = count
  end
  return counts, taken
end

local function write_granted(out, asks, counts, fits_at)
  out[#out + 1] = pack('>I2', #asks)
  for i, ask in ipairs(asks) do
    local fits = counts[i] < ask[2] and fits_at(max(ask[1], 1))
    out[#out + 1] = pack('>I4I7', counts[i], fits and fits + 1 or 0)
  end
end

-- window.rs: cells are a list, the newest first, of { start_ms, entries }; entries of { source, charged, returned }.
-- What the sources come to that the cell keeps apart, and its floor.
local function apart(cell)
  local sum, floor_of_all = 0, 0
  for _, entry in ipairs(cell[2]) do
    local used = max(entry[2] - entry[3], 0)
    if entry[1] == FLOOR then floor_of_all = used else sum = sum + used end
  end
  return sum, floor_of_all
end

local function used_in(cell)
  return max(apart(cell))
end

local function entry_of(cell, source)
  for _, entry in ipairs(cell[2]) do
    if entry[1] == source then return entry end
  end
end

local function entry_in(cell, source)
  local entry = entry_of(cell, source)
  if not entry then
    entry = { source, 0, 0 }
    table.insert(cell[2], entry)
  end
  return entry
end

-- Drops the oldest entries, but not that of `current`, and keeps what all came to as the floor.
local function fold(cell, current)
  local entries = cell[2]
  if #entries <= MAX_ENTRIES then return end
  local all, floor_of_all = apart(cell)
  local sum = entry_in(cell, FLOOR)
  sum[2] = min(sum[2] + max(all - floor_of_all, 0), MAX_COUNT)
  local at = 1
  while #entries > MAX_ENTRIES and at <= #entries do
    local source = entries[at][1]
    if source ~= FLOOR and source ~= current then table.remove(entries, at) else at = at + 1 end
  end
end

local function charge_in(cell, source, tokens)
  local entry, sum = entry_in(cell, source), entry_of(cell, FLOOR)
  entry[2] = min(entry[2] + tokens, MAX_COUNT)
  if sum then sum[2] = min(sum[2] + tokens, MAX_COUNT) end
  fold(cell, source)
end

local function give_back(cell, source, tokens)
  local entry, sum = entry_of(cell, source), entry_of(cell, FLOOR)
  if not entry or entry == sum then return end
  local back = min(tokens, max(entry[2] - entry[3], 0))
  entry[3] = entry[3] + back
  if sum then sum[3] = min(sum[3] + back, sum[2]) end
end

local function cell_at(cells, start)
  local at = #cells + 1
  for i, cell in ipairs(cells) do
    if cell[1] <= start then at = i break end
  end
  if not cells[at] or cells[at][1] ~= start then table.insert(cells, at, { start, {} }) end
  return cells[at]
end

local function place(grid, ms)
  if grid.bounds then
    for i = 1, 3 do
      local from, to = grid.bounds[i], grid.bounds[i + 1]
      if from <= ms and ms < to then return { from = from, to = to, oldest = from } end
    end
    return nil
  end
  local from = ms - ms % grid.width
  return { from = from, to = from + grid.width, oldest = max(from - grid.width * grid.older, 0) }
end

local function overlap_ms(here, at)
  return ceil(max(here.to * 1000 - at, 0) / 1000)
end

local function weighted(used, overlap, width)
  local weight = floor((overlap * WEIGHT_ONE + width - 1) / width)
  return ceil(min(used, 2 * MAX_LIMIT) * weight / WEIGHT_ONE)
end

local function used_at(grid, cells, here, at)
  local sum = 0
  for _, cell in ipairs(cells) do
    local start = cell[1]
    if start >= here.oldest and start <= here.from then
      if grid.sliding and start ~= here.from then
        sum = sum + weighted(used_in(cell), overlap_ms(here, at), grid.width)
      else
        sum = sum + used_in(cell)
      end
    end
  end
  return sum
end

local function sliding_fits_at(grid, cells, here, room)
  local current, older = 0, 0
  for _, cell in ipairs(cells) do
    if cell[1] == here.from then current = used_in(cell) elseif cell[1] == here.oldest then older = used_in(cell) end
  end
  local used, left, to = older, room - current, here.to
  if left < 0 then used, left, to = current, room, here.to + grid.width end
  local weight = WEIGHT_ONE
  if used > 0 then weight = min(floor(left * WEIGHT_ONE / used), WEIGHT_ONE) end
  return (to - floor(weight * grid.width / WEIGHT_ONE)) * 1000
end

local function window_fits_at(grid, cells, here, at, hits, limit)
  local room = limit - hits
  if room < 0 then return nil end
  if used_at(grid, cells, here, at) <= room then return at end
  if grid.sliding then return sliding_fits_at(grid, cells, here, room) end
  if grid.bounds or grid.older == 0 then return here.to * 1000 end
  local sum = 0
  for _, cell in ipairs(cells) do
    if cell[1] >= here.oldest then sum = sum + used_in(cell) end
  end
  for i = #cells, 1, -1 do
    if cells[i][1] >= here.oldest then
      sum = sum - used_in(cells[i])
      if sum <= room then return (cells[i][1] + grid.width * (grid.older + 1)) * 1000 end
    end
  end
  return nil
end

-- From when on a cell does not count any more, in milliseconds.
local function gone_at(grid, cell, to)
  if grid.bounds or grid.older == 0 then return to end
  return cell[1] + (grid.older + 1) * grid.width
end

local function empty_at(grid, cells, here, at)
  for _, cell in ipairs(cells) do
    if cell[1] >= here.oldest and used_in(cell) > 0 then return max(gone_at(grid, cell, here.to) * 1000, at) end
  end
  return at
end

local function read_cells(text, at)
  local cells, count = {}
  count, at = unpack('>B', text, at)
  for i = 1, count do
    local start, entries, size = nil, {}
    start, size, at = unpack('>I6B', text, at)
    for j = 1, size do
      local source, charged, returned
      source, charged, returned, at = unpack('>I6I7I7', text, at)
      entries[j] = { source, charged, returned }
    end
    cells[i] = { start, entries }
  end
  return cells, at
end

local function write_cells(out, cells, count)
  out[#out + 1] = pack('>B', count)
  for i = 1, count do
    local entries = cells[i][2]
    out[#out + 1] = pack('>I6B', cells[i][1], #entries)
    for _, entry in ipairs(entries) do out[#out + 1] = pack('>I6I7I7', entry[1], entry[2], entry[3]) end
  end
end

-- debts.rs: a debt is { cell_ms, id, charged, returned }; a report has what is known of it behind that.
local function read_debt(text, at)
  local start, id, charged, returned
  start, id, charged, returned, at = unpack('>I6I6I7I7', text, at)
  return { start, id, charged, returned }, at
end

local function read_debts(text, at)
  local debts, count = {}
  count, at = unpack('>B', text, at)
  for i = 1, count do debts[i], at = read_debt(text, at) end
  return debts, at
end

local function read_reports(text, at)
  local reports, count = {}
  count, at = unpack('>B', text, at)
  for i = 1, count do
    local debt
    debt, at = read_debt(text, at)
    debt[5], debt[6], at = unpack('>I7I7', text, at)
    reports[i] = debt
  end
  return reports, at
end

local function write_debts(out, debts)
  out[#out + 1] = pack('>B', #debts)
  for _, debt in ipairs(debts) do out[#out + 1] = pack('>I6I6I7I7', debt[1], debt[2], debt[3], debt[4]) end
end

local function debt_at(kept, debt)
  for i, one in ipairs(kept) do
    if one[1] == debt[1] and one[2] == debt[2] then return i end
  end
end

local function merge_debts(kept, seen)
  for _, debt in ipairs(seen) do
    local at = debt_at(kept, debt)
    if at then
      kept[at][3], kept[at][4] = max(kept[at][3], debt[3]), max(kept[at][4], debt[4])
    elseif #kept < MAX_DEBTS then
      kept[#kept + 1] = debt
    end
  end
end

-- Charges what a report brings that was not charged yet.
local function take_debt(kept, cells, report, incarnation)
  local start, id, charged, returned = report[1], report[2], report[3], report[4]
  local known_charged, known_returned = report[5], report[6]
  local at = debt_at(kept, report)
  local confirms = charged == known_charged and returned == known_returned
  local had_charged, had_returned = known_charged, known_returned
  if at then had_charged, had_returned = max(kept[at][3], had_charged), max(kept[at][4], had_returned) end
  local now_kept = { start, id, max(had_charged, charged), max(had_returned, returned) }
  if at and confirms then
    table.remove(kept, at)
  elseif at then
    kept[at] = now_kept
  elseif not confirms then
    if #kept >= MAX_DEBTS then table.remove(kept, 1) end
    kept[#kept + 1] = now_kept
  end
  local more, back = max(charged - had_charged, 0), max(returned - had_returned, 0)
  if more > 0 then charge_in(cell_at(cells, start), incarnation, more) end
  for _, cell in ipairs(cells) do
    if cell[1] == start then give_back(cell, incarnation, back) end
  end
end

local function read_window(text)
  local shape, incarnation, at = unpack('>BI6', text)
  if shape == TINY then
    local second, charged = unpack('>I4B', text, at)
    return { incarnation = incarnation, taken = {}, debts = {}, cells = { { second * 1000, { { incarnation, charged, 0 } } } } }
  elseif shape == SINGLE then
    local second, charged, returned
    second, charged, returned, at = unpack('>I4I4I4', text, at)
    local cell = { second * 1000, { { incarnation, charged, returned } } }
    local window = { incarnation = incarnation, taken = {}, debts = {}, cells = { cell } }
    while at <= #text do
      local who, which, last
      who, which, last, at = unpack('>I6I6I7', text, at)
      table.insert(window.taken, { who, which, last })
    end
    return window
  elseif shape == PLAIN then
    local cells, count = {}
    count, at = unpack('>B', text, at)
    for i = 1, count do
      local second, charged
      second, charged, at = unpack('>I4I4', text, at)
      cells[i] = { second * 1000, { { incarnation, charged, 0 } } }
    end
    return { incarnation = incarnation, taken = {}, debts = {}, cells = cells }
  elseif shape == FULL then
    local window = { incarnation = incarnation }
    window.cells, at = read_cells(text, at)
    window.taken, at = read_taken(text, at)
    -- A record of an earlier script ends here.
    window.debts = at <= #text and read_debts(text, at) or {}
    return window
  end
  error('no window')
end

local function is_simple(window)
  if #window.debts > 0 then return false end
  for _, cell in ipairs(window.cells) do
    local only = #cell[2] == 1 and cell[2][1]
    local fits = only and only[1] == window.incarnation and only[2] < 4294967296 and only[3] < 4294967296
    if not fits or cell[1] % 1000 ~= 0 or cell[1] >= 4294967296000 then return false end
  end
  return true
end

local function write_window(window)
  local cells = window.cells
  if is_simple(window) then
    local returned = 0
    for _, cell in ipairs(cells) do returned = returned + cell[2][1][3] end
    if #cells == 1 then
      local second, charged = cells[1][1] / 1000, cells[1][2][1][2]
      if returned == 0 and charged < 256 and #window.taken == 0 then
        return pack('>BI6I4B', TINY, window.incarnation, second, charged)
      end
      local out = { pack('>BI6I4I4I4', SINGLE, window.incarnation, second, charged, returned) }
      for _, batch in ipairs(window.taken) do out[#out + 1] = pack('>I6I6I7', batch[1], batch[2], batch[3]) end
      return table.concat(out)
    elseif returned == 0 and #window.taken == 0 then
      local out = { pack('>BI6B', PLAIN, window.incarnation, #cells) }
      for _, cell in ipairs(cells) do out[#out + 1] = pack('>I4I4', cell[1] / 1000, cell[2][1][2]) end
      return table.concat(out)
    end
  end
  local out = { pack('>BI6', FULL, window.incarnation) }
  write_cells(out, cells, #cells)
  write_taken(out, window.taken)
  write_debts(out, window.debts)
  return table.concat(out)
end

-- From when on the record says nothing any more, in milliseconds. A cell of which all went back does say so.
local function window_expires(grid, cells)
  local here = place(grid, cells[1][1])
  if not here then return grid.bounds[1] end
  return gone_at(grid, cells[1], here.to)
end

-- Keeps `text` under `key` until `expires` (ms); `stored` is what is there.
local function keep(key, stored, text, expires)
  if expires * 1000 <= now then text = nil end
  if text == stored or (not text and not stored) then return end
  if text then
    call('SET', key, text, 'PXAT', milliseconds(expires))
  else
    call('DEL', key)
  end
end

-- A brief item in the form of every other; `at` is where its returns are.
local function read_brief(kind, at)
  local grid, item = { sliding = kind % BRIEF == 2 }, { asks = {}, seen = {}, debts_in = 0, debts = {}, reports = {}, returns = 0 }
  grid.width, grid.older, item.limit, item.want, item.holders, item.min_left, at = unpack('>I6BI7I4I4I7', batch, at)
  if kind >= ASKS then
    local hits, count
    hits, count, at = unpack('>I6I4', batch, at)
    item.asks[1] = { hits, count }
  end
  if kind % (2 * SEEN) >= SEEN then
    local start, source, charged, returned
    start, source, charged, returned, at = unpack('>I6I6I7I7', batch, at)
    item.seen[1] = { start, { { source, charged, returned } } }
  end
  if kind % (2 * BACK) >= BACK then item.returns = 1 end
  return grid, item, at
end

local function read_item(kind, at)
  if kind >= BRIEF then return read_brief(kind, at) end
  local grid, item = {}, {}
  if kind == 4 then
    local a, b, c, d
    a, b, c, d, at = unpack('>I6I6I6I6', batch, at)
    grid.bounds = { a, b, c, d }
  else
    grid.width, grid.older, at = unpack('>I6B', batch, at)
    grid.sliding = kind == 2
  end
  item.limit, item.want, item.holders, item.min_left, at = unpack('>I7I4I4I7', batch, at)
  item.asks, at = read_asks(batch, at)
  item.seen, at = read_cells(batch, at)
  item.debts_in, at = unpack('>I6', batch, at)
  item.debts, at = read_debts(batch, at)
  item.reports, at = read_reports(batch, at)
  item.returns, at = unpack('>I4', batch, at)
  return grid, item, at
end

local function serve_window(key, kind, at)
  local stored = call('GET', key)
  local grid, item
  grid, item, at = read_item(kind, at)
  local limit, asks, seen, returns = item.limit, item.asks, item.seen, item.returns

  local window = stored and read_window(stored)
  local newest = 0
  for _, cell in ipairs(window and window.cells or {}) do newest = max(newest, cell[1]) end
  for _, cell in ipairs(seen) do newest = max(newest, cell[1]) end
  for _, report in ipairs(item.reports) do newest = max(newest, report[1]) end
  local instant = max(now, newest * 1000)
  local here = place(grid, floor(instant / 1000))
  if not here then return pack('>B', OUT_OF_BOUNDS) end

  window = window or { incarnation = begins, taken = {}, debts = {}, cells = {} }
  window.incarnation, window.taken = goes_on(window.incarnation), prune(window.taken)
  local cells = window.cells
  for _, cell in ipairs(seen) do
    if cell[1] >= here.oldest then
      local mine = cell_at(cells, cell[1])
      for _, entry in ipairs(cell[2]) do
        local own = entry_in(mine, entry[1])
        own[2], own[3] = max(own[2], entry[2]), max(own[3], entry[3])
      end
      fold(mine, window.incarnation)
    end
  end
  -- What is of a cell that is over counts no more.
  local function that_count(debts)
    local kept = {}
    for _, debt in ipairs(debts) do
      if debt[1] >= here.oldest then kept[#kept + 1] = debt end
    end
    return kept
  end
  window.debts = that_count(window.debts)
  -- Where no other incarnation has begun since, the record knows all that the node saw, and what was confirmed since.
  if item.debts_in ~= window.incarnation then merge_debts(window.debts, that_count(item.debts)) end
  local reports = that_count(item.reports)
  local first = (returns > 0 or #item.reports > 0) and is_first(window.taken)
  if returns > 0 and first then
    for _ = 1, returns do
      local start, source, tokens
      start, source, tokens, at = unpack('>I6I6I7', batch, at)
      for _, cell in ipairs(cells) do
        if cell[1] == start then give_back(cell, source, tokens) end
      end
    end
  end

  for _, report in ipairs(first and reports or {}) do
    take_debt(window.debts, cells, report, window.incarnation)
  end

  -- What has no limit refuses nothing, however much is counted.
  local used = limit < MAX_COUNT and used_at(grid, cells, here, instant) or 0
  local available = max(limit - used, 0)
  local counts, tokens = share_out(asks, available)
  local lease = 0
  if max(here.to * 1000 - instant, 0) >= item.min_left then
    lease = min(floor((available - tokens) / (2 * max(item.holders, 1))), item.want)
  end
  tokens = tokens + lease
  if tokens > 0 then
    charge_in(cell_at(cells, here.from), window.incarnation, tokens)
  end
  if cells[1] then
    local ring = place(grid, cells[1][1])
    local oldest = ring and ring.oldest or cells[1][1]
    for i = #cells, 1, -1 do
      if cells[i][1] < oldest then table.remove(cells, i) end
    end
  end

  local out = { pack('>B', WINDOW_DONE) }
  write_granted(out, asks, counts, function(hits) return window_fits_at(grid, cells, here, instant, hits, limit) end)
  local reset = empty_at(grid, cells, here, instant)
  out[#out + 1] = pack('>I4I7I7I6I6I6', lease, available - tokens, reset, window.incarnation, here.from, here.to)
  write_cells(out, cells, min(#cells, 2))
  out[#out + 1] = pack('>B', (first or #item.reports == 0) and 1 or 0)
  write_debts(out, window.debts)
  -- A key that holds nothing need not exist.
  if cells[1] then
    keep(key, stored, write_window(window), window_expires(grid, cells))
  else
    keep(key, stored, nil, 0)
  end
  return table.concat(out)
end

-- token_bucket.rs: an instant or a span is two integers, microseconds and a fraction in 2^-20.
local function less(au, af, bu, bf)
  return au < bu or (au == bu and af < bf)
end

local function plus(au, af, bu, bf)
  local f = af + bf
  return au + bu + floor(f / TICKS), f % TICKS
end

local function minus(au, af, bu, bf)
  if less(au, af, bu, bf) then return 0, 0 end
  local f = af - bf
  return au - bu + floor(f / TICKS), f % TICKS
end

local function times(u, f, n)
  -- The fraction times n, in two parts that stay exact.
  local high, low = floor(n / 65536), n % 65536
  local parts = f * high
  local rest = parts % 16 * 65536 + f * low
  return u * n + floor(parts / 16) + floor(rest / TICKS), rest % TICKS
end

local function micros_up(u, f)
  return f > 0 and u + 1 or u
end

-- How often a span is in another, rounded down.
local function quotient(au, af, bu, bf)
  if bu == 0 and bf == 0 then return 0 end
  local n = floor((au + af / TICKS) / (bu + bf / TICKS))
  -- The quotient of rounded figures is off by one at most.
  while less(au, af, times(bu, bf, n)) do n = n - 1 end
  while not less(au, af, times(bu, bf, n + 1)) do n = n + 1 end
  return n
end

local function serve_bucket(key, at)
  local stored = call('GET', key)
  local su, sf, burst, revision, owed, was_seen
  su, sf, burst, revision, owed, was_seen, at = unpack('>I7I3I5I6I7B', batch, at)
  local b
  if stored then
    local shape, incarnation, tu, tf, cu, cf, last, ru, rf, rburst, rrevision, next =
      unpack('>BI6I7I3I7I3I7I7I3I5I6', stored)
    if shape ~= BUCKET then error('no bucket') end
    b = { incarnation = incarnation, tu = tu, tf = tf, cu = cu, cf = cf, last = last, su = ru, sf = rf, burst = rburst,
      revision = rrevision, taken = read_taken(stored, next) }
  else
    b = { incarnation = begins, tu = 0, tf = 0, cu = 0, cf = 0, last = now, su = su, sf = sf, burst = burst,
      revision = revision, taken = {} }
  end
  b.last, b.taken = max(b.last, now), prune(b.taken)
  local incarnation = goes_on(b.incarnation)
  if incarnation ~= b.incarnation then b.incarnation, b.cu, b.cf = incarnation, 0, 0 end
  local size_u, size_f = times(b.su, b.sf, b.burst)
  local empty_u, empty_f = plus(b.last, 0, size_u, size_f)
  if was_seen == 1 then
    local seen, u, f
    seen, u, f, at = unpack('>I6I7I3', batch, at)
    if seen ~= b.incarnation then
      u, f = plus(u, f, b.cu, b.cf)
      if less(empty_u, empty_f, u, f) then u, f = empty_u, empty_f end
      if less(b.tu, b.tf, u, f) then b.tu, b.tf = u, f end
    end
  end
  if revision > b.revision then
    local other = su ~= b.su or sf ~= b.sf
    local ahead_u, ahead_f = minus(b.tu, b.tf, b.last, 0)
    local missing = quotient(ahead_u, ahead_f, b.su, b.sf)
    local whole_u, whole_f = times(b.su, b.sf, missing)
    if less(whole_u, whole_f, ahead_u, ahead_f) then missing = missing + 1 end
    b.su, b.sf, b.burst, b.revision = su, sf, burst, revision
    size_u, size_f = times(b.su, b.sf, b.burst)
    empty_u, empty_f = plus(b.last, 0, size_u, size_f)
    if other then
      if less(empty_u, empty_f, b.tu, b.tf) then b.tu, b.tf = empty_u, empty_f end
      local least_u, least_f = plus(b.last, 0, times(b.su, b.sf, min(missing, b.burst)))
      if less(b.tu, b.tf, least_u, least_f) then b.tu, b.tf = least_u, least_f end
    end
  end
  local asks, returns
  asks, at = read_asks(batch, at)
  returns, at = unpack('>I4', batch, at)
  if returns > 0 and is_first(b.taken) then
    local ours = {}
    for _ = 1, returns do
      local source, u, f, hits, charged_at
      source, u, f, hits, charged_at, at = unpack('>I6I7I3I6I7', batch, at)
      if source == b.incarnation and u == b.su and f == b.sf then ours[#ours + 1] = { charged_at, hits } end
    end
    table.sort(ours, function(x, y) return x[1] < y[1] end)
    -- What a bucket would miss now which only these hits had been charged to.
    local u, f = 0, 0
    for _, back in ipairs(ours) do
      if less(u, f, back[1], 0) then u, f = back[1], 0 end
      u, f = plus(u, f, times(b.su, b.sf, back[2]))
    end
    u, f = minus(u, f, b.last, 0)
    b.tu, b.tf = minus(b.tu, b.tf, u, f)
    b.cu, b.cf = minus(b.cu, b.cf, u, f)
  end
  local function charge(hits)
    local u, f = times(b.su, b.sf, hits)
    if less(b.tu, b.tf, b.last, 0) then b.tu, b.tf = b.last, 0 end
    return plus(b.tu, b.tf, u, f)
  end
  if owed > 0 then
    -- More than a burst empties it as a burst does.
    local u, f = charge(min(owed, b.burst))
    local before_u, before_f = b.tu, b.tf
    local to_u, to_f = empty_u, empty_f
    if less(to_u, to_f, before_u, before_f) then to_u, to_f = before_u, before_f end
    if less(u, f, to_u, to_f) then to_u, to_f = u, f end
    b.tu, b.tf = to_u, to_f
    b.cu, b.cf = plus(b.cu, b.cf, minus(to_u, to_f, before_u, before_f))
  else
    b.tu, b.tf = charge(0)
  end

  local function available()
    local free_u, free_f = minus(size_u, size_f, minus(b.tu, b.tf, b.last, 0))
    return quotient(free_u, free_f, b.su, b.sf)
  end
  local function fits_at(hits)
    if hits > b.burst then return nil end
    local u, f = minus(b.tu, b.tf, b.last, 0)
    u, f = plus(u, f, times(b.su, b.sf, hits))
    u, f = minus(u, f, size_u, size_f)
    return b.last + micros_up(u, f)
  end

  local counts, tokens = share_out(asks, available())
  if tokens > 0 then
    local u, f = times(b.su, b.sf, tokens)
    b.tu, b.tf = charge(tokens)
    b.cu, b.cf = plus(b.cu, b.cf, u, f)
  end
  local full = max(micros_up(b.tu, b.tf), b.last)
  local out = { pack('>B', BUCKET_DONE) }
  write_granted(out, asks, counts, fits_at)
  out[#out + 1] = pack('>I7I7I6I7I3I7', available(), full, b.incarnation, b.tu, b.tf, b.last)
  local record = { pack('>BI6I7I3I7I3I7I7I3I5I6', BUCKET, b.incarnation, b.tu, b.tf, b.cu, b.cf, b.last, b.su, b.sf,
    b.burst, b.revision) }
  write_taken(record, b.taken)
  keep(key, stored, table.concat(record), ceil(full / 1000))
  return table.concat(out)
end

return function(key, kind, at)
  if kind == 5 then return serve_bucket(key, at) end
  return serve_window(key, kind, at)
end
end

local serve_whole
local function serve(key, kind, at)
  local done
  if kind >= BRIEF then done = serve_brief(key, kind, at) end
  if done then return done end
  serve_whole = serve_whole or whole()
  return serve_whole(key, kind, at)
end

-- Redis 7 fails with a table, those before with a text.
local function failed(why)
  why = string.sub(type(why) == 'table' and why.err or tostring(why), 1, 80)
  return pack('>BB', FAILED, #why) .. why
end

local answer = { pack('>BBI7', VERSION, 1, now) }
for i, key in ipairs(KEYS) do
  local size, kind, from = unpack('>I3B', batch, at)
  local ok, done = pcall(serve, key, kind, from)
  answer[i + 1] = ok and done or failed(done)
  at = from + size
end
return table.concat(answer)
