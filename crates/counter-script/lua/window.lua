-- Serves the items of window counters, as counter/window_record.rs of the limiter crate does.

-- Reads a compact item into the form of every other item. `returns_position` is where its returns begin. The table
-- constructors name every field: a table that gets its fields one by one is allocated several times.
local function read_compact_item(kind, position)
  local window_ms, older_cells, limit, want, holders, min_left_us
  window_ms, older_cells, limit, want, holders, min_left_us, position = unpack('>I6BI7I4I4I7', batch, position)
  local item = {
    grid = grid_of(window_ms, older_cells, kind % HAS_OTHERS == KIND_SLIDING), limit = limit, want = want,
    holders = holders, min_left_us = min_left_us, refund = 0, asks = {}, seen = {}, debts_seen_in = 0,
    debts_seen = {}, reports = {}, returns = 0, returns_position = 0,
  }
  if kind >= HAS_ASK then
    local hits, count
    hits, count, position = unpack('>I6I4', batch, position)
    item.asks[1] = { hits = hits, count = count, overdraft = false }
  end
  if kind % (2 * HAS_SEEN) >= HAS_SEEN then
    local start_ms, incarnation, charged, returned
    start_ms, incarnation, charged, returned, position = unpack('>I6I6I7I7', batch, position)
    local entry = { region = 0, incarnation = incarnation, charged = charged, returned = returned }
    item.seen[1] = { start_ms = start_ms, entries = { entry } }
  end
  if kind % (2 * HAS_OTHERS) >= HAS_OTHERS then
    local count = unpack('>B', batch, position)
    read_others(item.seen[1].entries, batch, position + 1, count)
    position = position + 1 + count * OTHER_SIZE
  end
  if kind % (2 * HAS_RETURN) >= HAS_RETURN then item.returns = 1 end
  item.returns_position = position
  return item
end

local function read_item(kind, position)
  if kind >= KIND_COMPACT then return read_compact_item(kind, position) end
  local grid
  grid, position = read_grid(kind, position)
  local limit, want, holders, min_left_us, refund, asks, _, seen, debts_seen_in, debts_seen, reports
  local global, share, escrow, returns
  limit, want, holders, min_left_us, refund, position = unpack('>I7I4I4I7I7', batch, position)
  asks, _, position = read_asks(batch, position)
  seen, position = read_cells(batch, position)
  debts_seen_in, position = unpack('>I6', batch, position)
  debts_seen, position = read_debts(batch, position)
  reports, position = read_reports(batch, position)
  global, position = unpack('>B', batch, position)
  if global == GLOBAL_SHARE then share, position = read_share(batch, position) end
  if global == GLOBAL_ESCROW then escrow, position = read_escrow(batch, position) end
  returns, position = unpack('>I4', batch, position)
  return {
    grid = grid, limit = limit, want = want, holders = holders, min_left_us = min_left_us, refund = refund,
    asks = asks, seen = seen,
    debts_seen_in = debts_seen_in, debts_seen = debts_seen, reports = reports, share = share, escrow = escrow,
    returns = returns,
    returns_position = position,
  }
end

-- Returns the beginning of the newest of the cells that the store's own region charged in milliseconds, 0 if there is
-- none. The clocks of other regions do not advance the time of a counter.
local function newest_own_ms(cells)
  local newest_ms = 0
  for _, cell in ipairs(cells) do
    if is_own(cell) then newest_ms = max(newest_ms, cell.start_ms) end
  end
  return newest_ms
end

local function newest_cell_ms(window)
  return window and newest_own_ms(window.cells) or 0
end

-- Returns the instant in microseconds at which the item is served. It is never before a cell that the record or the
-- item knows, so that time never goes back for a key.
local function current_instant(item, window)
  local newest_ms = max(newest_cell_ms(window), newest_own_ms(item.seen))
  for _, report in ipairs(item.reports) do newest_ms = max(newest_ms, report.cell_ms) end
  return max(item.escrow and lane_now() or now, newest_ms * 1000)
end

-- Applies returns and charges debts. Returns true if the item's debts are charged, or if it has none. The debts of a
-- repeated batch are not charged.
local function apply_returns_and_debts(item, window, span)
  local incarnation, cells = window.incarnation, window.cells
  -- A debt of a cell that is over counts no more.
  window.debts = still_valid(window.debts, span)
  -- In the same incarnation the record already has the debts that the node saw, and knows what was confirmed since.
  if item.debts_seen_in ~= incarnation then merge_debts(window.debts, still_valid(item.debts_seen, span)) end
  local is_first_delivery = (item.returns > 0 or #item.reports > 0 or item.refund > 0)
    and accept_once(window.applied)
  if is_first_delivery then
    local position = item.returns_position
    for _ = 1, item.returns do
      local cell_ms, of_incarnation, tokens
      cell_ms, of_incarnation, tokens, position = unpack('>I6I6I7', batch, position)
      give_back(cells, cell_ms, of_incarnation, tokens)
    end
    for _, report in ipairs(still_valid(item.reports, span)) do
      charge_debt(window.debts, cells, report, incarnation)
    end
    local refund = item.refund
    for _, cell in ipairs(cells) do
      if cell.start_ms >= span.oldest_ms then refund = refund - refund_cell(cell, refund) end
    end
  end
  return is_first_delivery or #item.reports == 0
end

-- Drops the cells that the newest one makes obsolete. Time alone drops none: a clock that steps back finds them again.
local function drop_old_cells(grid, window)
  local cells = window.cells
  local newest_ms = newest_own_ms(cells)
  if newest_ms == 0 then return end
  local newest = span_at(grid, newest_ms)
  local oldest_ms = newest and newest.oldest_ms or newest_ms
  for i = #cells, 1, -1 do
    if cells[i].start_ms < oldest_ms then table.remove(cells, i) end
  end
  window.log = logged_since(window.log, oldest_ms * 1000)
end

-- Serves an item of a window counter and returns the reply. `position` is where the item begins, after its kind.
local function serve_window(key, kind, position)
  local stored = call('GET', key)
  local item = read_item(kind, position)
  if item.escrow then lane_record() end
  local grid, limit, asks = item.grid, item.limit, item.asks

  local window = stored and read_window(stored)
  local instant = current_instant(item, window)
  local span = span_at(grid, floor(instant / 1000))
  if not span then
    local lane_ms = item.escrow and lane_record().latest_ms or 0
    return pack('>BI6', OUT_OF_BOUNDS, max(newest_cell_ms(window), lane_ms))
  end

  window = window or { incarnation = new_incarnation, applied = {}, debts = {}, cells = {}, log = {} }
  window.incarnation, window.applied = continue_or_renew(window.incarnation), prune(window.applied)
  local cells = window.cells
  for _, cell in ipairs(item.seen) do
    if cell.start_ms >= span.oldest_ms then
      -- The only note that is merged is that of the rights with which the cell began. Other regions repeat what they
      -- gave and confirmed, and the store may have rejected some of it. They also confirm what this region gave.
      local kept = {}
      for _, entry in ipairs(cell.entries) do
        local is_rights = entry.region == 0 and entry.incarnation == NOTE_RIGHTS
        if is_rights or not is_note(entry) then kept[#kept + 1] = entry end
      end
      merge_entries(cell_at(cells, cell.start_ms), kept, window.incarnation)
    end
  end
  if grid.bounds or grid.older_cells == 0 then window.log = {} end
  local debts_charged = apply_returns_and_debts(item, window, span)

  -- A counter without a limit denies nothing, however much is counted.
  local used = limit < MAX_COUNT and used_at(grid, window, span, instant, used_in) or 0
  local of_limit = max(limit - used, 0)
  local available = item.share and share_of(item.share, grid, window, span, instant, limit, of_limit) or of_limit
  local escrow, spending = item.escrow, 0
  if escrow then
    available, spending = rights_left(escrow, cell_from(cells, span.start_ms), span.start_ms)
    available = min(available, of_limit)
  end
  local counts, asked = grant_in_order(asks, available)
  local lease_tokens = 0
  if max(span.end_ms * 1000 - instant, 0) >= item.min_left_us then
    lease_tokens = min(floor(max(available - asked, 0) / (2 * max(item.holders, 1))), item.want)
  end
  local tokens = asked + lease_tokens
  if tokens > 0 then
    local cell = cell_at(cells, span.start_ms)
    if escrow then begin_rights(escrow, cell) end
    charge(cell, window.incarnation, tokens)
  end
  -- Nobody knows when tokens of a lease will be spent, so they are not logged.
  if asked > 0 and is_logged(grid, limit) then note_hits(window.log, span.start_ms * 1000, instant, asked) end
  drop_old_cells(grid, window)

  local out = { pack('>B', escrow and ESCROW_DONE or WINDOW_DONE) }
  write_granted(out, asks, counts, function(hits)
    local at = fits_at(grid, window, span, instant, hits, limit)
    -- The share of a region grows at the next cell at the earliest.
    return at and available < of_limit and max(at, span.end_ms * 1000) or at
  end)
  out[#out + 1] = pack('>I4I7I7I6I6I6', lease_tokens, max(available - tokens, 0),
    empty_at(grid, window, span, instant), window.incarnation, span.start_ms, span.end_ms)
  -- Another region may be in the next cell already.
  local current = 1
  while cells[current] and cells[current].start_ms > span.start_ms do current = current + 1 end
  write_cells(out, cells, current, min(#cells, current + 1))
  out[#out + 1] = pack('>B', debts_charged and 1 or 0)
  write_debts(out, window.debts)
  if escrow then out[#out + 1] = pack('>I6', spending) end
  -- A key that holds nothing need not exist.
  if cells[1] then
    store(key, stored, write_window(window), window_expires(grid, cells) + (escrow and KEPT_AFTER_CELL_MS or 0))
  else
    store(key, stored, nil)
  end
  return table.concat(out)
end
