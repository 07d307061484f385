-- Serves the items that move rights between regions, as counter/transfer.rs does.

-- Returns the cell that begins at `start_ms` if a transfer may touch it: the current one, or the next.
local function transfer_cell(window, span, start_ms)
  if start_ms ~= span.start_ms and start_ms ~= span.end_ms then return nil end
  local cells = window.cells
  if cell_from(cells, start_ms) or #cells < MAX_TRANSFER_CELLS then return cell_at(cells, start_ms) end
end

-- Drops cells that have only notes, and that were over when the lane was last served.
local function drop_notes(grid, window)
  local span = span_at(grid, lane_record().latest_ms)
  if not span then return end
  local cells = window.cells
  for i = #cells, 1, -1 do
    if cells[i].start_ms < span.oldest_ms and not is_own(cells[i]) then table.remove(cells, i) end
  end
end

-- Gives rights to another region, and returns the reply.
local function give(position, window, span, instant)
  local escrow, to, cell_ms, wanted, denied, had, epoch_ms
  escrow, position = read_escrow(batch, position)
  to, cell_ms, wanted, denied, had, epoch_ms = unpack('>I2I6I7BI7I6', batch, position)
  local cell = transfer_cell(window, span, cell_ms)
  local given, received, fenced = 0, 0, 0
  if cell then
    if epoch_ms > 0 then
      set_note(cell, NOTE_FENCED, to, epoch_ms)
      fenced = 1
    end
    -- A store that has forgotten what it gave hears it from the one that has it. What was given beyond that is on its
    -- way, and part of what is wanted.
    set_note(cell, FIRST_NOTE + to, 0, had)
    wanted = max(wanted - (note(cell, FIRST_NOTE + to, 0) - had), 0)
    -- Only the current cell has rights to give: the next one has not begun here.
    if cell_ms == span.start_ms then
      local available = rights_left(escrow, cell, cell_ms)
      local moved = min(spare(available, max(sum_and_floor(cell, 0)), span, instant, denied == 1), wanted)
      if moved > 0 then
        begin_rights(escrow, cell)
        set_note(cell, FIRST_NOTE + to, 0, note(cell, FIRST_NOTE + to, 0) + moved)
      end
    end
    given, received = note(cell, FIRST_NOTE + to, 0), note(cell, FIRST_NOTE, to)
  end
  return pack('>BI6I7I7B', GIVEN, lane_record().since_ms, given, received, fenced)
end

-- Takes the rights that another region gave, and what it received of those that this one gave. Returns the reply.
local function take(position, window, span)
  local from, cell_ms, epoch_ms, given, received, fenced, asked_ms = unpack('>I2I6I6I7I7BI6', batch, position)
  local cell = transfer_cell(window, span, cell_ms)
  local gained = 0
  if cell then
    local before = note(cell, FIRST_NOTE, from)
    if epoch_ms >= note(cell, NOTE_FENCED, from) then set_note(cell, FIRST_NOTE, from, given) end
    gained = note(cell, FIRST_NOTE, from) - before
    set_note(cell, FIRST_NOTE + from, 0, received)
    if fenced == 1 then set_note(cell, NOTE_CONFIRMED, from, asked_ms) end
  end
  return pack('>BI6I7', TAKEN, lane_record().since_ms, gained)
end

local function serve_transfer(key, kind, position)
  lane_record()
  local stored = call('GET', key)
  local grid_kind, grid
  grid_kind, position = unpack('>B', batch, position)
  grid, position = read_grid(grid_kind, position)
  local window = stored and read_window(stored)
  local instant = max(lane_now(), newest_cell_ms(window) * 1000)
  local span = span_at(grid, floor(instant / 1000))
  if not span then return pack('>BI6', OUT_OF_BOUNDS, newest_cell_ms(window)) end
  window = window or { incarnation = new_incarnation, applied = {}, debts = {}, cells = {}, log = {} }
  window.incarnation = continue_or_renew(window.incarnation)
  drop_notes(grid, window)
  local reply
  if kind == KIND_GIVE then
    reply = give(position, window, span, instant)
  else
    reply = take(position, window, span)
  end
  local cells = window.cells
  for i = #cells, 1, -1 do
    if not cells[i].entries[1] then table.remove(cells, i) end
  end
  if cells[1] then
    -- An item that gives rights always writes. The node waits until a replica has this write, and so has all earlier
    -- ones.
    -- The grid is that of another region: it does not shorten the life of the record.
    local expires_ms = window_expires(grid, cells) + KEPT_AFTER_CELL_MS
    local left_ms = stored and call('PTTL', key) or 0
    if left_ms > 0 then expires_ms = max(expires_ms, floor(now / 1000) + left_ms) end
    store(key, kind == KIND_TAKE and stored, write_window(window), expires_ms)
  else
    store(key, stored, nil)
  end
  return reply
end

return serve_window, serve_import, serve_transfer
