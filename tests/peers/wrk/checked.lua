-- Asks for one file after another, checks each body, and prints in the end what went wrong, as JSON.
-- Arguments: paths and the files whose content they have to give, in turn.
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    requests, known, sizes = {}, {}, {}
    for at = 1, #args, 2 do
        local file = assert(io.open(args[at + 1], "rb"))
        local content = file:read("*a")
        file:close()
        known[content] = true
        table.insert(sizes, #content)
        table.insert(requests, wrk.format("GET", args[at]))
    end
    turn, wrong, leftover = 0, 0, 0
end

-- wrk 4.1 keeps what it has of a body when the connection ends, and puts it before that of the next connection.
local function ends_as_known(body)
    for _, size in ipairs(sizes) do
        if #body > size and known[body:sub(-size)] then
            return true
        end
    end
    return false
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function delay()
    return math.random(0, 40) -- milliseconds: between two requests connections are at rest, and others get the CPU
end

function response(status, headers, body)
    if status == 200 and known[body] then
        return
    elseif status == 200 and ends_as_known(body) then
        leftover = leftover + 1
    else
        wrong = wrong + 1
    end
end

function done(summary, latency, seconds)
    local wrong, leftover = 0, 0
    for _, thread in ipairs(threads) do
        wrong = wrong + thread:get("wrong")
        leftover = leftover + thread:get("leftover")
    end
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "wrong": %d, "leftover": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
        summary.requests, wrong, leftover, errors.connect, errors.read, errors.write, errors.status, errors.timeout
    ))
end
