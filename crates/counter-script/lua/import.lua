-- Serves the items that only carry what another region reports of a window, as WindowRecord::import does.

-- Returns the reply to an import. It never advances the time of the counter, and it creates no cell that is over, nor
-- one that begins after the next: the clock of that region is too far ahead.
local function serve_import(key, kind, position)
  local epoch_ms = lane_record().since_ms
  local stored = call('GET', key)
  local grid, reported
  grid, position = read_grid(kind - IMPORT, position)
  reported = read_cells(batch, position)
  local window = stored and read_window(stored)
  local span = span_at(grid, floor(max(now, newest_cell_ms(window) * 1000) / 1000))
  if not span then return pack('>BI6', OUT_OF_BOUNDS, newest_cell_ms(window)) end
  window = window or { incarnation = new_incarnation, applied = {}, debts = {}, cells = {}, log = {} }
  window.incarnation = continue_or_renew(window.incarnation)
  local cells = window.cells
  for _, cell in ipairs(reported) do
    local foreign = {}
    for _, entry in ipairs(cell.entries) do
      if entry.region ~= 0 then table.insert(foreign, entry) end
    end
    if foreign[1] and cell.start_ms >= span.oldest_ms and cell.start_ms <= span.end_ms then
      merge_entries(cell_at(cells, cell.start_ms), foreign, window.incarnation)
    end
  end
  for i = #cells, 1, -1 do
    if cells[i].start_ms < span.oldest_ms then table.remove(cells, i) end
  end
  if cells[1] then
    store(key, stored, write_window(window), window_expires(grid, cells))
  else
    store(key, stored, nil)
  end
  return pack('>BI6', IMPORTED, epoch_ms)
end
