-- Asks and grants (grants.rs). Asks are a list of { hits, count, overdraft }: `count` asks in a row, of `hits` tokens
-- each. Those with `overdraft` are charged even if they do not fit.

-- Returns the asks, and whether one has `overdraft`.
local function read_asks(text, position)
  local asks, has_overdraft, runs = {}, false
  runs, position = unpack('>I2', text, position)
  for i = 1, runs do
    local hits, count, overdraft
    hits, count, overdraft, position = unpack('>I6I4B', text, position)
    asks[i] = { hits = hits, count = count, overdraft = overdraft == 1 }
    has_overdraft = has_overdraft or overdraft == 1
  end
  return asks, has_overdraft, position
end

-- Grants whole asks in order. Returns how many of each run pass, and the tokens that are charged for them together.
local function grant_in_order(asks, available)
  local counts, tokens = {}, 0
  for i, ask in ipairs(asks) do
    local hits, count = ask.hits, ask.count
    local left = max(available - tokens, 0)
    if hits > 0 then
      count = min(floor(left / hits), count)
    elseif left == 0 then
      count = 0
    end
    tokens = tokens + (ask.overdraft and ask.count or count) * hits
    counts[i] = count
  end
  return counts, tokens
end

-- Writes the reply to each run: how many passed and, if some did not, when one more would fit. `fits_at` returns that
-- instant for a number of hits, or nil if they never fit. The reply holds the instant plus one, or 0 if there is none.
local function write_granted(out, asks, counts, fits_at)
  out[#out + 1] = pack('>I2', #asks)
  -- Thousands of runs may ask for few different numbers of hits.
  local instants = {}
  for i, ask in ipairs(asks) do
    local hits = max(ask.hits, 1)
    local instant = counts[i] < ask.count and instants[hits]
    if instant == nil then
      instant = fits_at(hits) or false
      instants[hits] = instant
    end
    out[#out + 1] = pack('>I4I7', counts[i], instant and instant + 1 or 0)
  end
end
