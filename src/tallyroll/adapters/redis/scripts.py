"""What runs inside Redis: five scripts, each atomic.

Offsets are text of 19 digits, so that comparing text compares numbers: a number in Lua is a double, exact to 2^53 only.
Nothing is computed with them here but by HINCRBY, which counts in 64 bits.
"""

from typing import Final

# KEYS: sync. ARGV: token, fold, expected next or ''. Gives false, or what is stored instead.
ACQUIRE: Final = """
local fold, stored = unpack(redis.call('HMGET', KEYS[1], 'fold', 'next'))
if fold ~= ARGV[2] then stored = false end
if (stored or '') ~= ARGV[3] then return {stored or ''} end
if not stored then redis.call('HDEL', KEYS[1], 'next', 'first', 'repeats') end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fold', ARGV[2])
return false
"""

_HOLDS: Final = """
local token, stored = unpack(redis.call('HMGET', KEYS[1], 'token', 'next'))
if token ~= ARGV[1] or (stored or '') ~= ARGV[2] then return redis.error_reply('CONFLICT ' .. (stored or '')) end
"""

# KEYS: sync, part…. ARGV: token, expected next or '', mark (fold and end, 16 + 19 characters), field, bytes….
# Gives per hash the counter, then fields and values without what was written just now.
PARTS: Final = (
    _HOLDS
    + """
local fold, last = ARGV[3]:sub(1, 16), ARGV[3]:sub(17)
local found = {}
for i = 2, #KEYS do
  local old = redis.call('HGET', KEYS[i], ARGV[4])
  if not old or old:sub(1, 16) ~= fold or old:sub(17, 35) < last then
    redis.call('HSET', KEYS[i], ARGV[4], ARGV[3] .. ARGV[i + 3])
    local n = redis.call('HINCRBY', KEYS[i], 'n', 1)
    local rest = {}
    if redis.call('HLEN', KEYS[i]) > 2 then
      local all = redis.call('HGETALL', KEYS[i])
      for at = 1, #all, 2 do
        if all[at] ~= ARGV[4] and all[at] ~= 'n' then
          rest[#rest + 1] = all[at]
          rest[#rest + 1] = all[at + 1]
        end
      end
    end
    found[i - 1] = {1, n, rest}
  else
    found[i - 1] = {0, redis.call('HGET', KEYS[i], 'n'), redis.call('HGETALL', KEYS[i])}
  end
end
return found
"""
)

# KEYS: (part, guard, view)…. ARGV: fold, (n, JSON)…. Gives how many were written, and how many keys are not ours.
VIEWS: Final = """
local written, foreign = 0, 0
for i = 1, #KEYS, 3 do
  local at = (i - 1) / 3 * 2 + 2
  local n, body = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', KEYS[i], 'n') == n then
    local kind, old = redis.call('TYPE', KEYS[i + 2]).ok, nil
    local ours = kind == 'none'
    if kind == 'string' then
      old = redis.call('GET', KEYS[i + 2])
      ours = redis.sha1hex(old) == redis.call('HGET', KEYS[i + 1], 'digest')
    end
    if not ours then
      foreign = foreign + 1
    elseif old ~= body then
      redis.call('SET', KEYS[i + 2], body)
      redis.call('HSET', KEYS[i + 1], 'digest', redis.sha1hex(body), 'fold', ARGV[1])
      redis.call('PUBLISH', KEYS[i + 2], body)
      written = written + 1
    end
  end
end
return {written, foreign}
"""

# KEYS: sync. ARGV: token, expected next or '', next, first, repeats.
COMMIT: Final = (
    _HOLDS
    + """
redis.call('HSET', KEYS[1], 'next', ARGV[3], 'first', ARGV[4], 'repeats', ARGV[5])
return 1
"""
)

# KEYS: hash. ARGV: field, expected value, new value. Gives whether it was the expected one.
REPLACE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
