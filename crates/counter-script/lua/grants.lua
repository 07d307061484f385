-- Asks and grants (grants.rs). Asks are a list of { hits, count }: `count` asks in a row, of `hits` tokens each.

local function read_asks(text, position)
  local asks, runs = {}
  runs, position = unpack('>I2', text, position)
  for i = 1, runs do
    local hits, count
    hits, count, position = unpack('>I6I4', text, position)
    asks[i] = { hits = hits, count = count }
  end
  return asks, position
end

-- Grants whole asks in order. Returns how many of each run pass, and the tokens that they take together.
local function grant_in_order(asks, available)
  local counts, tokens = {}, 0
  for i, ask in ipairs(asks) do
    local hits, count = ask.hits, ask.count
    local left = available - tokens
    if hits > 0 then
      count = min(floor(left / hits), count)
    elseif left == 0 then
      count = 0
    end
    tokens = tokens + count * hits
    counts[i] = count
  end
  return counts, tokens
end

-- Writes the reply to each run: how many passed and, if some did not, when one more would fit. `fits_at` returns that
-- instant for a number of hits, or nil if they never fit. The reply holds the instant plus one, or 0 if there is none.
local function write_granted(out, asks, counts, fits_at)
  out[#out + 1] = pack('>I2', #asks)
  for i, ask in ipairs(asks) do
    local instant = counts[i] < ask.count and fits_at(max(ask.hits, 1))
    out[#out + 1] = pack('>I4I7', counts[i], instant and instant + 1 or 0)
  end
end
