-- What wrk sends: the tokens of a file in turn or by chance, or none; a body or none; over kept connections, or a new one for each
-- request. And what it tells: one line for `run`.
-- wrk … -s load.lua URL -- TOKENS|- ORDER BODY_BYTES PAUSE_MS keep|close
local requests, count, order, position = {}, 0, "chance", 0

function init(args)
  order = args[2]
  if args[3] ~= "0" then
    wrk.method, wrk.body = "POST", string.rep("x", tonumber(args[3]))
  end
  if args[5] == "close" then wrk.headers["Connection"] = "close" end
  local function add(token)
    if token then wrk.headers["Authorization"] = "Bearer " .. token end
    count = count + 1
    requests[count] = wrk.format()
  end
  if args[1] == "-" then
    add(nil)
  else
    for line in io.lines(args[1]) do add(line) end
  end
  math.randomseed(1)
  if count == 1 then
    -- wrk sends what it has, and asks nobody.
    request = nil
  end
  local pause = tonumber(args[4])
  if pause > 0 then
    -- Before each request of a connection, its first too, so that they do not come in step.
    function delay() return math.floor(2 * pause * math.random() + 0.5) end
  end
  io.stderr:write("READY\n")
end

function request()
  if order == "turn" then
    position = position % count + 1
    return requests[position]
  end
  return requests[math.random(count)]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), latency:percentile(99.9), e.status, e.connect + e.read + e.write + e.timeout))
end
