-- Instants and spans of token buckets (rate.rs). Each is two integers: whole microseconds, named as the thing itself,
-- and the rest in ticks, TICKS_PER_MICRO in a microsecond, named with `_ticks` at the end.

local function less(a, a_ticks, b, b_ticks)
  return a < b or (a == b and a_ticks < b_ticks)
end

local function earlier(a, a_ticks, b, b_ticks)
  if less(b, b_ticks, a, a_ticks) then return b, b_ticks end
  return a, a_ticks
end

local function later(a, a_ticks, b, b_ticks)
  if less(a, a_ticks, b, b_ticks) then return b, b_ticks end
  return a, a_ticks
end

local function plus(a, a_ticks, b, b_ticks)
  local ticks = a_ticks + b_ticks
  return a + b + floor(ticks / TICKS_PER_MICRO), ticks % TICKS_PER_MICRO
end

-- Returns a - b, or 0 if b is larger.
local function minus(a, a_ticks, b, b_ticks)
  if less(a, a_ticks, b, b_ticks) then return 0, 0 end
  local ticks = a_ticks - b_ticks
  return a - b + floor(ticks / TICKS_PER_MICRO), ticks % TICKS_PER_MICRO
end

-- Returns the span times `n`. The product of the ticks has two parts, so that each stays exact.
local function times(span, span_ticks, n)
  local high, low = floor(n / 65536), n % 65536
  local product = span_ticks * high
  local rest = product % 16 * 65536 + span_ticks * low
  return span * n + floor(product / 16) + floor(rest / TICKS_PER_MICRO), rest % TICKS_PER_MICRO
end

-- Returns whole microseconds, rounded up.
local function micros_up(span, span_ticks)
  return span_ticks > 0 and span + 1 or span
end

-- Returns how often span b is in span a, rounded down.
local function quotient(a, a_ticks, b, b_ticks)
  if b == 0 and b_ticks == 0 then return 0 end
  local n = floor((a + a_ticks / TICKS_PER_MICRO) / (b + b_ticks / TICKS_PER_MICRO))
  -- The quotient of rounded numbers is off by one at most.
  while less(a, a_ticks, times(b, b_ticks, n)) do n = n - 1 end
  while not less(a, a_ticks, times(b, b_ticks, n + 1)) do n = n + 1 end
  return n
end
