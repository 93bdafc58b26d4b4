-- KEYS members, delayed, dead  ARGV group, partitions, topic's base, inbox's base
-- → {ready or -1, in flight, delayed, dead, oldest ready or -1, members}, {-1} not there
local group, count, now = ARGV[1], tonumber(ARGV[2]), clock()
local ready, flying, oldest = 0, 0, -1
local function seen(entry)
  if not entry then return end
  local at = tonumber(string.match(entry[1], '^%d+'))
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'mq-published-at' then at = tonumber(entry[2][i + 1]) or at end
  end
  if oldest < 0 or at < oldest then oldest = at end
end
local function held(stream)
  for _, row in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
    local score = tonumber(redis.call('ZSCORE', KEYS[1], row[1]) or 'inf')
    if score < now then
      ready = ready + tonumber(row[2])
      local first = redis.call('XPENDING', stream, group, '-', '+', 1, row[1])[1]
      seen(redis.call('XRANGE', stream, first[1], first[1])[1])
    else
      flying = flying + tonumber(row[2])
    end
  end
end
local function waiting(stream, info)
  local last, lag = info[8], info[12]
  if redis.call('XLEN', stream) == 0 then return 0 end
  seen(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1])
  if lag then return lag end
  lag = 0
  for _ = 1, 200 do
    local entries = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 500)
    lag = lag + #entries
    if #entries < 500 then return lag end
    last = entries[500][1]
  end
  return nil
end
for p = 0, count - 1 do
  for i = 3, 4 do
    local stream = partition(ARGV[i], count, p)
    local groups, found = redis.pcall('XINFO', 'GROUPS', stream), false
    if not fails(groups) then
      for _, info in ipairs(groups) do
        if info[2] == group then
          found = true
          held(stream)
          local more = waiting(stream, info)
          if not more then ready = -1 end
          if ready >= 0 then ready = ready + more end
        end
      end
    end
    if not found and i == 3 then return {-1} end
  end
end
return {ready, flying, redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3]), oldest,
  redis.call('ZCOUNT', KEYS[1], number(now), '+inf')}
