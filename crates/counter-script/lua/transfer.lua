-- Serves the items that move rights between regions, as counter/transfer.rs does.

-- Returns a cell of a window if a record may keep it, as in imports.
local function transfer_cell(window, span, start_ms)
  local cells = window.cells
  for i = #cells, 1, -1 do
    if cells[i].start_ms < span.oldest_ms then table.remove(cells, i) end
  end
  if start_ms >= span.oldest_ms and start_ms <= span.end_ms then return cell_at(cells, start_ms) end
end

-- Gives rights to another region, and returns the reply.
local function give(key, grid, position, window, span, instant)
  local escrow, to, cell_ms, wanted, denied, epoch_ms
  escrow, position = read_escrow(batch, position)
  to, cell_ms, wanted, denied, epoch_ms = unpack('>I2I6I7BI6', batch, position)
  local cell = transfer_cell(window, span, cell_ms)
  local total, known, answered = 0, 0, 0
  if cell then
    if epoch_ms > 0 then
      set_note(cell, NOTE_ANSWERED, to, epoch_ms)
      answered = 1
    end
    -- Only the current cell has rights to give: the next one has not begun here.
    if cell_ms == span.start_ms then
      local available = rights_left(key, escrow, cell, cell_ms)
      local moved = min(spare(available, max(sum_and_floor(cell, 0)), span, instant, denied == 1), wanted)
      if moved > 0 then
        begin_rights(escrow, cell)
        set_note(cell, FIRST_NOTE + to, 0, note(cell, FIRST_NOTE + to, 0) + moved)
      end
    end
    total, known = note(cell, FIRST_NOTE + to, 0), note(cell, FIRST_NOTE, to)
  end
  return pack('>BI6I7I7B', GIVEN, lane_of(key).since_ms, total, known, answered)
end

-- Takes the rights that another region gave, and what it knows of those that this one gave. Returns the reply.
local function take(position, window, span)
  local from, cell_ms, epoch_ms, total, known, answered, asked_ms = unpack('>I2I6I6I7I7BI6', batch, position)
  local cell = transfer_cell(window, span, cell_ms)
  if cell then
    if epoch_ms >= note(cell, NOTE_ANSWERED, from) then set_note(cell, FIRST_NOTE, from, total) end
    set_note(cell, FIRST_NOTE + from, 0, known)
    if answered == 1 then set_note(cell, NOTE_CONFIRMED, from, asked_ms) end
  end
  return pack('>BI3', IMPORTED, replication_mark)
end

local function serve_transfer(key, kind, position)
  lane_of(key)
  local stored = call('GET', key)
  local grid_kind, grid
  grid_kind, position = unpack('>B', batch, position)
  grid, position = read_grid(grid_kind, position)
  local window = stored and read_window(stored)
  local instant = max(lane_now(key), newest_cell_ms(window) * 1000)
  local span = span_at(grid, floor(instant / 1000))
  if not span then return pack('>BI6', OUT_OF_BOUNDS, newest_cell_ms(window)) end
  window = window or { incarnation = new_incarnation, applied = {}, debts = {}, cells = {}, log = {} }
  window.incarnation = continue_or_renew(window.incarnation)
  local reply
  if kind == KIND_GIVE then
    reply = give(key, grid, position, window, span, instant)
  else
    reply = take(position, window, span)
  end
  local cells = window.cells
  for i = #cells, 1, -1 do
    if not cells[i].entries[1] then table.remove(cells, i) end
  end
  if cells[1] then
    -- A gift is written even if it changes nothing: whoever waits until a replica has this write knows that it has all
    -- earlier ones.
    store(key, kind == KIND_TAKE and stored, write_window(window), window_expires(grid, cells) + KEPT_AFTER_CELL_MS)
  else
    store(key, stored, nil)
  end
  return reply
end

return serve_window, serve_import, serve_transfer
