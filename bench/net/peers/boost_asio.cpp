// The same server with Boost.Asio: one thread, asynchronous reads and writes, replies of one read in one write,
// broadcasts of one turn in one write per session. Prints its port, serves until killed.
//
// What stays true: a session has at most one write on its way; what is said meanwhile gathers in `waiting`. It is not
// read from while its replies wait. A frame that is not whole yet is kept at the front of `inbox`.

#include <boost/asio.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_set>
#include <vector>

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::uint16_t login_id = 1001, chat_id = 1002, move_id = 1003;
constexpr std::size_t header_size = 8, max_packet_size = 8192, inbox_size = 16384;

struct Header {
    std::uint16_t id, size;
    std::uint32_t sequence;
};

class Session;

class Room {
public:
    explicit Room(asio::io_context& context) : context(context) {}
    void say(const Header& header, const std::uint8_t* body);

    std::unordered_set<Session*> sessions;
    bool is_posted = false; // what was said leaves at the end of the turn

private:
    void flush();

    asio::io_context& context;
};

class Session : public std::enable_shared_from_this<Session> {
public:
    Session(tcp::socket socket, Room& room) : socket(std::move(socket)), room(room), inbox(inbox_size) {}
    ~Session() { room.sessions.erase(this); }

    void start()
    {
        socket.set_option(tcp::no_delay(true));
        socket.non_blocking(true);
        room.sessions.insert(this);
        read();
    }

    void append(const Header& header, const std::uint8_t* body)
    {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(&header);
        waiting.insert(waiting.end(), bytes, bytes + header_size);
        waiting.insert(waiting.end(), body, body + header.size - header_size);
    }

    void flush()
    {
        if (!is_writing && !waiting.empty())
            write();
    }

    Room& the_room() { return room; }

private:
    void read()
    {
        is_reading = true;
        socket.async_read_some(
            asio::buffer(inbox.data() + used, inbox.size() - used),
            [self = shared_from_this()](error_code error, std::size_t got) {
                self->is_reading = false;
                if (!error && self->dispatch(got))
                    self->after_read();
                else
                    self->room.sessions.erase(self.get());
            });
    }

    void after_read()
    {
        if (!room.is_posted)
            flush();
        if (!is_writing)
            read();
    }

    void write()
    {
        is_writing = true;
        writing.swap(waiting);
        // most sockets take everything at once: try before paying for an asynchronous operation
        error_code error;
        std::size_t sent = socket.write_some(asio::buffer(writing), error);
        if (!error && sent == writing.size()) {
            writing.clear();
            is_writing = false;
            return;
        }
        if (error && error != asio::error::would_block)
            return;
        asio::async_write(socket, asio::buffer(writing.data() + sent, writing.size() - sent),
                          [self = shared_from_this()](error_code error, std::size_t) { self->written(error); });
    }

    void written(error_code error)
    {
        if (error)
            return;
        writing.clear();
        is_writing = false;
        flush();
        if (!is_writing && !is_reading)
            read();
    }

    bool dispatch(std::size_t got);

    tcp::socket socket;
    Room& room;
    std::vector<std::uint8_t> inbox, waiting, writing;
    std::size_t used = 0;
    bool is_writing = false, is_reading = false;
};

using Handler = void (*)(Session&, const Header&, const std::uint8_t*);
std::array<Handler, 65536> handlers{};

bool Session::dispatch(std::size_t got)
{
    Header header;
    std::size_t at = 0;
    used += got;
    while (used - at >= header_size) {
        std::memcpy(&header, inbox.data() + at, header_size);
        if (header.size < header_size || header.size > max_packet_size)
            return false;
        if (header.size > used - at)
            break;
        if (auto handler = handlers[header.id])
            handler(*this, header, inbox.data() + at + header_size);
        at += header.size;
    }
    std::memmove(inbox.data(), inbox.data() + at, used - at);
    used -= at;
    return true;
}

void Room::say(const Header& header, const std::uint8_t* body)
{
    for (auto* session : sessions)
        session->append(header, body);
    if (!is_posted) {
        is_posted = true;
        asio::post(context, [this] { flush(); });
    }
}

void Room::flush()
{
    is_posted = false;
    for (auto* session : sessions)
        session->flush();
}

void accept(tcp::acceptor& acceptor, Room& room)
{
    acceptor.async_accept([&](error_code error, tcp::socket socket) {
        if (!error)
            std::make_shared<Session>(std::move(socket), room)->start();
        accept(acceptor, room);
    });
}

int main()
{
    asio::io_context context(1);
    Room room(context);
    handlers[login_id] = handlers[move_id] = [](Session& from, const Header& header, const std::uint8_t* body) {
        from.append(header, body);
    };
    handlers[chat_id] = [](Session& from, const Header& header, const std::uint8_t* body) {
        from.the_room().say(header, body);
    };
    tcp::acceptor acceptor(context, tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0));
    acceptor.listen(1024);
    std::printf("%d\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    accept(acceptor, room);
    context.run();
}
