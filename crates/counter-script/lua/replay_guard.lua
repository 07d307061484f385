-- The replay guard (replay_guard.rs): the last batch of each holder whose returns and debts a record has applied. It is
-- a list of { holder, batch_id, not_after }.

-- Returns the batches that can still run.
local function prune(applied)
  local kept = {}
  for _, last in ipairs(applied) do
    if last.not_after >= now then kept[#kept + 1] = last end
  end
  return kept
end

-- Returns true, once, if the returns and debts of this batch may be applied.
local function accept_once(applied)
  if not has_end then return false end
  for _, last in ipairs(applied) do
    if last.holder == holder then
      if batch_id <= last.batch_id then return false end
      last.batch_id, last.not_after = batch_id, max(last.not_after, not_after)
      return true
    end
  end
  if #applied >= MAX_HOLDERS then return false end
  applied[#applied + 1] = { holder = holder, batch_id = batch_id, not_after = not_after }
  return true
end

local function read_applied_batch(text, position)
  local last_holder, last_batch_id, last_not_after
  last_holder, last_batch_id, last_not_after, position = unpack('>I6I6I7', text, position)
  return { holder = last_holder, batch_id = last_batch_id, not_after = last_not_after }, position
end

local function write_applied_batch(out, last)
  out[#out + 1] = pack('>I6I6I7', last.holder, last.batch_id, last.not_after)
end

local function read_applied(text, position)
  local applied, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do applied[i], position = read_applied_batch(text, position) end
  return applied, position
end

local function write_applied(out, applied)
  out[#out + 1] = pack('>B', #applied)
  for _, last in ipairs(applied) do write_applied_batch(out, last) end
end
