-- Debts (debts.rs): hits that holders admitted without the store. A debt is { cell_ms, id, charged, returned }. A
-- report is a debt with { known_charged, known_returned }, the part that its holder knows to be charged.

local function read_debt(text, position)
  local cell_ms, id, charged, returned
  cell_ms, id, charged, returned, position = unpack('>I6I6I7I7', text, position)
  return { cell_ms = cell_ms, id = id, charged = charged, returned = returned }, position
end

local function read_debts(text, position)
  local debts, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do debts[i], position = read_debt(text, position) end
  return debts, position
end

local function read_reports(text, position)
  local reports, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do
    local report
    report, position = read_debt(text, position)
    report.known_charged, report.known_returned, position = unpack('>I7I7', text, position)
    reports[i] = report
  end
  return reports, position
end

local function write_debts(out, debts)
  out[#out + 1] = pack('>B', #debts)
  for _, debt in ipairs(debts) do
    out[#out + 1] = pack('>I6I6I7I7', debt.cell_ms, debt.id, debt.charged, debt.returned)
  end
end

-- Returns the debts, or reports, of cells that still count.
local function still_valid(debts, span)
  local kept = {}
  for _, debt in ipairs(debts) do
    if debt.cell_ms >= span.oldest_ms then kept[#kept + 1] = debt end
  end
  return kept
end

-- Returns the position of a debt among `debts`, and what is there.
local function find_debt(debts, wanted)
  for i, debt in ipairs(debts) do
    if debt.cell_ms == wanted.cell_ms and debt.id == wanted.id then return i, debt end
  end
end

-- Merges debts that a node saw as charged into those of the record. A debt that has no room is charged again if its
-- holder does not know yet that it was charged.
local function merge_debts(kept, seen)
  for _, debt in ipairs(seen) do
    local _, own = find_debt(kept, debt)
    if own then
      own.charged, own.returned = max(own.charged, debt.charged), max(own.returned, debt.returned)
    elseif #kept < MAX_DEBTS then
      kept[#kept + 1] = debt
    end
  end
end

-- Charges the part of a report that the record has not charged yet to `incarnation`. A report that confirms its debt
-- makes the record forget the debt.
local function charge_debt(kept, cells, report, incarnation)
  local charged, returned = report.charged, report.returned
  local confirms = charged == report.known_charged and returned == report.known_returned
  local done_charged, done_returned = report.known_charged, report.known_returned
  local position, own = find_debt(kept, report)
  if own then
    done_charged, done_returned = max(own.charged, done_charged), max(own.returned, done_returned)
  end
  if position and confirms then
    table.remove(kept, position)
  elseif not confirms then
    if not position and #kept >= MAX_DEBTS then table.remove(kept, 1) end
    kept[position or #kept + 1] = {
      cell_ms = report.cell_ms,
      id = report.id,
      charged = max(done_charged, charged),
      returned = max(done_returned, returned),
    }
  end
  local more, back = max(charged - done_charged, 0), max(returned - done_returned, 0)
  if more > 0 then charge(cell_at(cells, report.cell_ms), incarnation, more) end
  give_back(cells, report.cell_ms, incarnation, back)
end
