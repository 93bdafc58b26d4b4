-- KEYS members, lanes, topic's delayed, group's delayed
-- ARGV me, session or '' between heartbeats, limit, partitions, topic's base, inbox's base, ordered
-- → {1, moved, ms to the next due or -1, members to take over, generation}, {-1} session lost
local members, me, limit = KEYS[1], ARGV[1], tonumber(ARGV[3])
local score = redis.call('ZSCORE', members, me)
if not score or tonumber(score) <= 0 then return {-1} end
local now = clock()
if ARGV[2] ~= '' then
  local lapsed = redis.call('ZRANGEBYSCORE', members, 1, number(now - 1))
  local last = redis.call('ZREVRANGE', members, 0, 0, 'WITHSCORES')
  local until_ = number(now + ARGV[2])
  -- When all lapsed together it was the server or the network that was away: nobody is dead.
  local together = tonumber(last[2]) < now
  for _, name in ipairs(lapsed) do
    if name ~= me then redis.call('ZADD', members, together and until_ or 0, name) end
  end
  if #lapsed > 0 and not together and ARGV[7] == '1' then
    redis.call('HINCRBY', KEYS[2], 'generation', 1)
  end
  redis.call('ZADD', members, until_, me)
end
local count, moved, wait = tonumber(ARGV[4]), 0, -1
for i = 3, 4 do
  local due = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', number(now), 'LIMIT', 0, limit)
  local done = 0
  for n, blob in ipairs(due) do
    local good, entry = pcall(cmsgpack.unpack, string.sub(blob, 17))
    if not good or type(entry) ~= 'table' then entry = {'0', 'body', blob} end
    local reply = redis.pcall('XADD', partition(ARGV[i + 2], count, entry[1]), '*', unpack(entry, 2))
    if fails(reply) then break end
    done = n
  end
  if done > 0 then redis.call('ZREMRANGEBYRANK', KEYS[i], 0, done - 1) end
  moved = math.max(moved, done)
  local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  if first[2] then
    local left = math.max(0, tonumber(first[2]) - now)
    if wait < 0 or left < wait then wait = left end
  end
end
local generation = ARGV[7] == '1' and redis.call('HGET', KEYS[2], 'generation') or 0
return {1, moved, math.min(wait, 86400000), redis.call('ZCOUNT', members, -1, 0), tonumber(generation) or 0}
