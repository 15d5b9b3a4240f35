"""What runs inside Redis: six scripts, each atomic.

Offsets are text of 19 digits, so that comparing text compares numbers: a number in Lua is a double, exact to 2^53 only.
Nothing is computed with them here but by HINCRBY, which counts in 64 bits.

What comes and goes by the thousand is one MessagePack list and one string in which all bytes stand end to end: as arguments of
their own, names and bytes cost the client more than everything else it does. Owners' keys are put together here for the same
reason, which one node allows.
"""

from typing import Final

# KEYS: sync…. ARGV: (token, fold, expected next or '')….
ACQUIRE: Final = """
for i = 1, #KEYS do
  local fold, stored = unpack(redis.call('HMGET', KEYS[i], 'fold', 'next'))
  if fold ~= ARGV[3 * i - 1] then stored = false end
  if (stored or '') ~= ARGV[3 * i] then return redis.error_reply('CONFLICT ' .. i .. ' ' .. (stored or '')) end
end
for i = 1, #KEYS do
  if ARGV[3 * i] == '' then redis.call('HDEL', KEYS[i], 'next', 'first', 'repeats') end
  redis.call('HINCRBY', KEYS[i], 'epoch', 1)
  redis.call('HSET', KEYS[i], 'token', ARGV[3 * i - 2], 'fold', ARGV[3 * i - 1])
end
return 1
"""

# KEYS: sync…. ARGV: (token, expected next or '')….
_HOLD: Final = """
for i = 1, #KEYS do
  local token, stored = unpack(redis.call('HMGET', KEYS[i], 'token', 'next'))
  if token ~= ARGV[2 * i - 1] or (stored or '') ~= ARGV[2 * i] then
    return redis.error_reply('CONFLICT ' .. i .. ' ' .. (stored or ''))
  end
end
"""

# ARGV: [prefix, fields, [place of the field, owner…]]. Gives the sizes of the values, 0 for none, and the values.
LOAD: Final = """
local prefix, fields, wanted = unpack(cmsgpack.unpack(ARGV[1]))
local sizes, found = {}, {}
for i = 1, #wanted, 2 do
  local value = redis.call('HGET', prefix .. wanted[i + 1], fields[wanted[i]]) or ''
  sizes[#sizes + 1] = #value
  found[#found + 1] = value
end
return {cmsgpack.pack(sizes), table.concat(found)}
"""

# KEYS, ARGV: as above, then [prefix, [[fold of 16 characters, end, field]…], [[owner, place of the claim, size…]…]], bytes.
# Gives per owner [the counter, (field, size)…] of what was not written just now, and the bytes of that.
PARTS: Final = (
    _HOLD
    + """
local prefix, claims, owners = unpack(cmsgpack.unpack(ARGV[#ARGV - 1]))
local bytes, at = ARGV[#ARGV], 1
local heads, found = {}, {}
for number, one in ipairs(owners) do
  local key, set, own = prefix .. one[1], {}, {}
  for i = 2, #one, 2 do
    local fold, last, field = unpack(claims[one[i]])
    local data = bytes:sub(at, at + one[i + 1] - 1)
    at = at + one[i + 1]
    local old = redis.call('HGET', key, field)
    if not old or old:sub(1, 16) ~= fold or old:sub(17, 35) < last then
      set[#set + 1] = field
      set[#set + 1] = fold .. last .. data
      own[field] = true
    end
  end
  local head
  if #set > 0 then
    redis.call('HSET', key, unpack(set))
    head = {redis.call('HINCRBY', key, 'n', 1)}
  else
    head = {redis.call('HGET', key, 'n')}
  end
  if redis.call('HLEN', key) > 1 + #set / 2 then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      if all[i] ~= 'n' and not own[all[i]] then
        head[#head + 1] = all[i]
        head[#head + 1] = #all[i + 1]
        found[#found + 1] = all[i + 1]
      end
    end
  end
  heads[number] = head
end
return {cmsgpack.pack(heads), table.concat(found)}
"""
)

# Takes [prefix, prefix of views, fold, [owner, n as text, size…]], and bytes. Gives {how many were written, how many keys are not ours},
# or an error of Redis in that place.
_SHOW: Final = """
local function show(head, bytes)
  local prefix, shown, fold, views = unpack(cmsgpack.unpack(head))
  local at, written, foreign = 1, 0, 0
  for i = 1, #views, 3 do
    local owner = views[i]
    local body = bytes:sub(at, at + views[i + 2] - 1)
    at = at + views[i + 2]
    if redis.call('HGET', prefix .. 'part:' .. owner, 'n') == views[i + 1] then
      local key, guard = shown .. owner .. ':state', prefix .. 'guard:' .. owner
      local old = redis.pcall('GET', key)
      if type(old) == 'table' and not old.err:find('WRONGTYPE', 1, true) then return old end
      if old and (type(old) == 'table' or redis.sha1hex(old) ~= redis.call('HGET', guard, 'digest')) then
        foreign = foreign + 1
      elseif old ~= body then
        redis.call('SET', key, body)
        redis.call('HSET', guard, 'digest', redis.sha1hex(body), 'fold', fold)
        redis.call('PUBLISH', key, body)
        written = written + 1
      end
    end
  end
  return {written, foreign}
end
"""

# ARGV: what is to be shown.
VIEWS: Final = _SHOW + "return show(ARGV[1], ARGV[2])"

# KEYS, ARGV: as of PARTS, then (next, first, repeats)…, and what is to be shown before that.
COMMIT: Final = (
    _SHOW
    + _HOLD
    + """
local shown = show(ARGV[#ARGV - 1], ARGV[#ARGV])
if shown.err then return shown end
for i = 1, #KEYS do
  local at = 2 * #KEYS + 3 * i
  redis.call('HSET', KEYS[i], 'next', ARGV[at - 2], 'first', ARGV[at - 1], 'repeats', ARGV[at])
end
return shown
"""
)

# KEYS: hash. ARGV: field, expected value, new value. Gives whether it was the expected one.
REPLACE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
