-- Serves the items of token buckets (token_bucket.rs). A bucket is a table with the fields of limiter::counter::Bucket.
-- Instants and spans are pairs, as in ticks.lua: `tat` and `tat_ticks`, `charged` and `charged_ticks`, `step` and
-- `step_ticks`, `size` and `size_ticks`. `last` is whole microseconds.

-- Sets the rate, and the size that follows from it.
local function set_rate(bucket, step, step_ticks, burst, revision)
  bucket.step, bucket.step_ticks, bucket.burst, bucket.revision = step, step_ticks, burst, revision
  bucket.size, bucket.size_ticks = times(step, step_ticks, burst)
end

local function new_bucket(step, step_ticks, burst, revision)
  local bucket =
    { incarnation = new_incarnation, tat = 0, tat_ticks = 0, charged = 0, charged_ticks = 0, last = now, applied = {} }
  set_rate(bucket, step, step_ticks, burst, revision)
  return bucket
end

local function read_bucket(text)
  local shape, incarnation, tat, tat_ticks, charged, charged_ticks, last, step, step_ticks, burst, revision, position =
    unpack('>BI6I7I3I7I3I7I7I3I5I6', text)
  if shape ~= RECORD_BUCKET then error('the value is not the record of a bucket') end
  local size, size_ticks = times(step, step_ticks, burst)
  return {
    incarnation = incarnation, tat = tat, tat_ticks = tat_ticks, charged = charged, charged_ticks = charged_ticks,
    last = last, step = step, step_ticks = step_ticks, burst = burst, revision = revision, size = size,
    size_ticks = size_ticks, applied = read_applied(text, position),
  }
end

local function write_bucket(bucket)
  local out = { pack('>BI6I7I3I7I3I7I7I3I5I6', RECORD_BUCKET, bucket.incarnation, bucket.tat, bucket.tat_ticks,
    bucket.charged, bucket.charged_ticks, bucket.last, bucket.step, bucket.step_ticks, bucket.burst, bucket.revision) }
  write_applied(out, bucket.applied)
  return table.concat(out)
end

-- Begins a new incarnation if `incarnation` is another: charges may have been lost.
local function set_incarnation(bucket, incarnation)
  if incarnation ~= bucket.incarnation then
    bucket.incarnation, bucket.charged, bucket.charged_ticks = incarnation, 0, 0
  end
end

-- Returns the `tat` of a bucket that is empty now.
local function empty_tat(bucket)
  return plus(bucket.last, 0, bucket.size, bucket.size_ticks)
end

-- Returns how far `tat` is ahead of now.
local function ahead(bucket)
  return minus(bucket.tat, bucket.tat_ticks, bucket.last, 0)
end

-- Returns the hits that the bucket lacks now. A part of a hit counts as one.
local function missing_hits(bucket)
  local lack, lack_ticks = ahead(bucket)
  local hits = quotient(lack, lack_ticks, bucket.step, bucket.step_ticks)
  local whole, whole_ticks = times(bucket.step, bucket.step_ticks, hits)
  if less(whole, whole_ticks, lack, lack_ticks) then hits = hits + 1 end
  return hits
end

-- Restores what a node saw that another incarnation had charged, at most to an empty bucket.
local function merge(bucket, seen_incarnation, seen_tat, seen_tat_ticks)
  if seen_incarnation == bucket.incarnation then return end
  local tat, tat_ticks = plus(seen_tat, seen_tat_ticks, bucket.charged, bucket.charged_ticks)
  tat, tat_ticks = earlier(tat, tat_ticks, empty_tat(bucket))
  bucket.tat, bucket.tat_ticks = later(bucket.tat, bucket.tat_ticks, tat, tat_ticks)
end

-- Adopts the rate of a newer revision. Afterwards the bucket lacks as many hits as before and takes as long to fill,
-- whichever is more, but it never lacks more than its new size.
local function adopt(bucket, step, step_ticks, burst, revision)
  if revision <= bucket.revision then return end
  local same_step = step == bucket.step and step_ticks == bucket.step_ticks
  local hits = not same_step and missing_hits(bucket)
  set_rate(bucket, step, step_ticks, burst, revision)
  if same_step then return end
  local tat, tat_ticks = earlier(bucket.tat, bucket.tat_ticks, empty_tat(bucket))
  local least, least_ticks = plus(bucket.last, 0, times(step, step_ticks, min(hits, burst)))
  bucket.tat, bucket.tat_ticks = later(tat, tat_ticks, least, least_ticks)
end

-- Gives back unused hits, less what the refill has absorbed since. `position` is where the `count` returns begin.
local function give_back(bucket, count, position)
  local returns = {}
  for _ = 1, count do
    local incarnation, step, step_ticks, hits, charged_at
    incarnation, step, step_ticks, hits, charged_at, position = unpack('>I6I7I3I6I7', batch, position)
    if incarnation == bucket.incarnation and step == bucket.step and step_ticks == bucket.step_ticks then
      returns[#returns + 1] = { charged_at = charged_at, hits = hits }
    end
  end
  table.sort(returns, function(a, b) return a.charged_at < b.charged_at end)
  -- The refund is what a bucket would lack now that only these hits were charged to.
  local refund, refund_ticks = 0, 0
  for _, back in ipairs(returns) do
    refund, refund_ticks = later(refund, refund_ticks, back.charged_at, 0)
    refund, refund_ticks = plus(refund, refund_ticks, times(bucket.step, bucket.step_ticks, back.hits))
  end
  refund, refund_ticks = minus(refund, refund_ticks, bucket.last, 0)
  bucket.tat, bucket.tat_ticks = minus(bucket.tat, bucket.tat_ticks, refund, refund_ticks)
  bucket.charged, bucket.charged_ticks = minus(bucket.charged, bucket.charged_ticks, refund, refund_ticks)
end

-- Returns roughly what `hits` cost, in microseconds. It may exceed 2^53.
local function rough_cost(bucket, hits)
  return hits * (bucket.step + bucket.step_ticks / TICKS_PER_MICRO)
end

-- Charges hits, and moves `tat` no further than the given span beyond empty. `tat` is not before `last`.
local function charge_up_to(bucket, hits, span, span_ticks)
  local before, before_ticks = bucket.tat, bucket.tat_ticks
  local most, most_ticks = plus(span, span_ticks, empty_tat(bucket))
  most, most_ticks = later(before, before_ticks, most, most_ticks)
  bucket.tat, bucket.tat_ticks = most, most_ticks
  -- A cost that is above the size of the bucket and the span need not be computed exactly, and must not overflow.
  if rough_cost(bucket, hits) <= bucket.size + span + 2 then
    local tat, tat_ticks = plus(before, before_ticks, times(bucket.step, bucket.step_ticks, hits))
    bucket.tat, bucket.tat_ticks = earlier(tat, tat_ticks, most, most_ticks)
  end
  local owed, owed_ticks = minus(bucket.tat, bucket.tat_ticks, before, before_ticks)
  bucket.charged, bucket.charged_ticks = plus(bucket.charged, bucket.charged_ticks, owed, owed_ticks)
end

-- Charges hits that a holder admitted during an outage. They empty the bucket and never drive it below empty.
local function owe(bucket, hits)
  charge_up_to(bucket, hits, 0, 0)
end

-- Charges hits whether they fit or not. They may drive the bucket below empty.
local function overdraw(bucket, hits)
  local span, span_ticks = MAX_OVERDRAFT_US, 0
  if rough_cost(bucket, MAX_OVERDRAFT_HITS) < MAX_OVERDRAFT_US then
    span, span_ticks = times(bucket.step, bucket.step_ticks, MAX_OVERDRAFT_HITS)
  end
  charge_up_to(bucket, hits, span, span_ticks)
end

-- Takes back hits, whoever was granted them.
local function uncharge(bucket, hits)
  local cost, cost_ticks = times(bucket.step, bucket.step_ticks, min(hits, missing_hits(bucket)))
  bucket.tat, bucket.tat_ticks = minus(bucket.tat, bucket.tat_ticks, cost, cost_ticks)
  bucket.charged, bucket.charged_ticks = minus(bucket.charged, bucket.charged_ticks, cost, cost_ticks)
end

-- Charges hits that fit. `tat` is not before `last`.
local function charge(bucket, hits)
  local cost, cost_ticks = times(bucket.step, bucket.step_ticks, hits)
  bucket.tat, bucket.tat_ticks = plus(bucket.tat, bucket.tat_ticks, cost, cost_ticks)
  bucket.charged, bucket.charged_ticks = plus(bucket.charged, bucket.charged_ticks, cost, cost_ticks)
end

-- Returns the hits that would be granted now.
local function available(bucket)
  local free, free_ticks = minus(bucket.size, bucket.size_ticks, ahead(bucket))
  return quotient(free, free_ticks, bucket.step, bucket.step_ticks)
end

-- Returns the first instant at which `hits` would fit if nothing more is charged, or nil if never.
local function fits_at(bucket, hits)
  if hits > bucket.burst then return nil end
  local wait, wait_ticks = ahead(bucket)
  wait, wait_ticks = plus(wait, wait_ticks, times(bucket.step, bucket.step_ticks, hits))
  wait, wait_ticks = minus(wait, wait_ticks, bucket.size, bucket.size_ticks)
  return bucket.last + micros_up(wait, wait_ticks)
end

-- Serves an item of a token bucket and returns the reply. `position` is where the item begins, behind its kind.
return function(key, position)
  local stored = call('GET', key)
  local step, step_ticks, burst, revision, owed, refund, has_seen
  step, step_ticks, burst, revision, owed, refund, has_seen, position = unpack('>I7I3I5I6I7I7B', batch, position)
  local bucket = stored and read_bucket(stored) or new_bucket(step, step_ticks, burst, revision)
  bucket.last, bucket.applied = max(bucket.last, now), prune(bucket.applied)
  set_incarnation(bucket, continue_or_renew(bucket.incarnation))
  if has_seen == 1 then
    local incarnation, tat, tat_ticks
    incarnation, tat, tat_ticks, position = unpack('>I6I7I3', batch, position)
    merge(bucket, incarnation, tat, tat_ticks)
  end
  adopt(bucket, step, step_ticks, burst, revision)
  local asks, has_overdraft, returns
  asks, has_overdraft, position = read_asks(batch, position)
  returns, position = unpack('>I4', batch, position)
  if (returns > 0 or refund > 0) and accept_once(bucket.applied) then
    give_back(bucket, returns, position)
    uncharge(bucket, refund)
  end
  bucket.tat, bucket.tat_ticks = later(bucket.tat, bucket.tat_ticks, bucket.last, 0)
  -- Returns make room first. A debt that an empty bucket has no room for is forgiven.
  if owed > 0 then owe(bucket, owed) end
  local counts, tokens = grant_in_order(asks, available(bucket))
  if has_overdraft then
    overdraw(bucket, tokens)
  elseif tokens > 0 then
    charge(bucket, tokens)
  end

  local full_at = max(micros_up(bucket.tat, bucket.tat_ticks), bucket.last)
  local out = { pack('>B', BUCKET_DONE) }
  write_granted(out, asks, counts, function(hits) return fits_at(bucket, hits) end)
  out[#out + 1] = pack('>I7I7I6I7I3I7', available(bucket), full_at, bucket.incarnation, bucket.tat, bucket.tat_ticks,
    bucket.last)
  store(key, stored, write_bucket(bucket), ceil(full_at / 1000))
  return table.concat(out)
end
