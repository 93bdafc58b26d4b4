local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function number(n)
  return string.format('%.0f', n)
end
-- A member is live while its score is above 0; 0: declared dead; -1: left.
local function live(members, name)
  local score = redis.call('ZSCORE', members, name)
  return score and tonumber(score) > 0
end
local function partition(base, count, p)
  if count == 1 then return base end
  return base .. ':' .. p
end
local function fails(reply)
  return type(reply) == 'table' and reply.err
end
