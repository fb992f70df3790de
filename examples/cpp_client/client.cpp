// A client of gamenet's demo server in plain C++17: logs in, says something, and waits until it hears itself.
//
//     client HOST PORT USER PASSWORD TEXT        exit code 0 if all of it worked, else 1 and the reason
//
// The structs are those of the book (9.2.1). What comes off the wire is checked before it is used: a packet's size
// against the header and a limit, its body against its struct, and a char[] is never read beyond its end.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#ifdef _MSC_VER
#pragma comment(lib, "Ws2_32.lib")
#endif
#else
#include <cerrno>
#include <csignal>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian: on this machine every number would have to be swapped"
#endif

// ---- the wire

#pragma pack(push, 1)
struct PacketHeader
{
    uint16_t packet_id;
    uint16_t packet_size;  // of the whole packet
    uint32_t sequence_number;
};

struct LoginPacket
{
    PacketHeader header;
    char user_id[32];
    char password[64];
};

struct ChatPacket
{
    PacketHeader header;
    char message[256];
};

struct LoginReplyPacket
{
    PacketHeader header;
    uint32_t code;
    uint32_t player_id;
};

struct ErrorPacket
{
    PacketHeader header;
    uint32_t code;
    uint16_t refused_id;
    char text[64];
};
#pragma pack(pop)

static_assert(sizeof(PacketHeader) == 8, "PacketHeader is not packed");
static_assert(sizeof(LoginPacket) == 104, "LoginPacket is not packed");
static_assert(sizeof(ChatPacket) == 264, "ChatPacket is not packed");
static_assert(sizeof(LoginReplyPacket) == 16, "LoginReplyPacket is not packed");
static_assert(sizeof(ErrorPacket) == 78, "ErrorPacket is not packed");

enum PacketType : uint16_t
{
    PACKET_LOGIN = 1001,
    PACKET_CHAT = 1002,
    PACKET_MOVE = 1003,
    PACKET_ATTACK = 1004,
    PACKET_LOGIN_REPLY = 1101,
    PACKET_ERROR = 1102
};

constexpr size_t MAX_PACKET_SIZE = 8192;
constexpr int TIMEOUT_SECONDS = 10;  // for each answer; the server takes its time to check a password

static std::string error_name(uint32_t code)
{
    switch (code)
    {
    case 0: return "SUCCESS";
    case 1000: return "NETWORK_ERROR";
    case 1001: return "INVALID_PACKET";
    case 1002: return "SESSION_NOT_FOUND";
    case 1003: return "AUTHENTICATION_FAILED";
    case 1004: return "DATABASE_ERROR";
    case 1005: return "MEMORY_ALLOCATION_FAILED";
    default: return "error " + std::to_string(code);
    }
}

// ---- text fields

template <size_t Size>
static void put_text(char (&field)[Size], const std::string& text, const char* name)
{
    if (text.size() > Size)
        throw std::runtime_error(std::string(name) + " takes " + std::to_string(Size) + " bytes, got " +
                                 std::to_string(text.size()));
    std::memset(field, 0, Size);
    std::memcpy(field, text.data(), text.size());
}

template <size_t Size>
static std::string get_text(const char (&field)[Size])
{
    return std::string(field, std::find(field, field + Size, '\0'));
}

// What others wrote must not steer our terminal.
static std::string printable(std::string text)
{
    for (char& c : text)
        if (static_cast<unsigned char>(c) < 32 || c == 127)
            c = '?';
    return text;
}

// ---- the connection

#ifdef _WIN32
using Socket = SOCKET;
using Length = int;
constexpr Socket NO_SOCKET = INVALID_SOCKET;
static void close_socket(Socket socket) { closesocket(socket); }
static bool was_interrupted() { return false; }
static std::string last_error()
{
    int code = WSAGetLastError();
    return code == WSAETIMEDOUT ? "timed out" : "Winsock error " + std::to_string(code);
}
#else
using Socket = int;
using Length = size_t;
constexpr Socket NO_SOCKET = -1;
static void close_socket(Socket socket) { close(socket); }
static bool was_interrupted() { return errno == EINTR; }
static std::string last_error()
{
    bool timed_out = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINPROGRESS;
    return timed_out ? "timed out" : std::strerror(errno);
}
#endif

// Winsock must be started once; on other systems a write to a closed connection must not end the process.
struct Network
{
#ifdef _WIN32
    Network()
    {
        WSADATA data;
        if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
            throw std::runtime_error("Winsock cannot be started");
    }
    ~Network() { WSACleanup(); }
#else
    Network() { std::signal(SIGPIPE, SIG_IGN); }
#endif
};

class Connection
{
public:
    Connection(const char* host, const char* port)
    {
        addrinfo hints{};
        hints.ai_family = AF_UNSPEC;
        hints.ai_socktype = SOCK_STREAM;
        addrinfo* found = nullptr;
        if (getaddrinfo(host, port, &hints, &found) != 0)
            throw std::runtime_error("no such address");
        std::string error;
        for (addrinfo* address = found; address && socket_ == NO_SOCKET; address = address->ai_next)
            error = try_connect(*address);
        freeaddrinfo(found);
        if (socket_ == NO_SOCKET)
            throw std::runtime_error("cannot connect: " + error);
    }

    ~Connection() { close_socket(socket_); }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // Every packet struct starts with its header, which is filled in here. The time for the answer runs from now on.
    template <typename T>
    void send(T& packet, PacketType type, uint32_t sequence)
    {
        packet.header = {type, static_cast<uint16_t>(sizeof(T)), sequence};
        deadline_ = std::chrono::steady_clock::now() + std::chrono::seconds(TIMEOUT_SECONDS);
        send_all(reinterpret_cast<const char*>(&packet), sizeof(T));
    }

    // The next packet, header and body: at least a header long, at most MAX_PACKET_SIZE.
    std::vector<char> receive()
    {
        PacketHeader header;
        receive_all(reinterpret_cast<char*>(&header), sizeof(header));
        if (header.packet_size < sizeof(header) || header.packet_size > MAX_PACKET_SIZE)
            throw std::runtime_error("a packet states the size " + std::to_string(header.packet_size));
        std::vector<char> packet(header.packet_size);
        std::memcpy(packet.data(), &header, sizeof(header));
        receive_all(packet.data() + sizeof(header), packet.size() - sizeof(header));
        return packet;
    }

private:
    std::string try_connect(const addrinfo& address)
    {
        Socket made = ::socket(address.ai_family, address.ai_socktype, address.ai_protocol);
        if (made == NO_SOCKET)
            return last_error();
        set_timeouts(made);
        if (::connect(made, address.ai_addr, static_cast<socklen_t>(address.ai_addrlen)) != 0)
        {
            std::string error = last_error();
            close_socket(made);
            return error;
        }
        socket_ = made;
        return "";
    }

    static void set_timeouts(Socket socket)
    {
#ifdef _WIN32
        DWORD timeout = TIMEOUT_SECONDS * 1000;
#else
        timeval timeout{};
        timeout.tv_sec = TIMEOUT_SECONDS;
#endif
        for (int option : {SO_RCVTIMEO, SO_SNDTIMEO})
            setsockopt(socket, SOL_SOCKET, option, reinterpret_cast<const char*>(&timeout), sizeof(timeout));
    }

    // send() and recv() may move less than they were asked to.
    void send_all(const char* data, size_t size)
    {
        while (size > 0)
        {
            auto sent = ::send(socket_, data, static_cast<Length>(size), 0);
            if (sent < 0 && was_interrupted())
                continue;
            if (sent <= 0)
                throw std::runtime_error("cannot send: " + last_error());
            data += sent;
            size -= static_cast<size_t>(sent);
        }
    }

    void receive_all(char* data, size_t size)
    {
        while (size > 0)
        {
            if (std::chrono::steady_clock::now() > deadline_)
                throw std::runtime_error("no answer within " + std::to_string(TIMEOUT_SECONDS) + " s");
            auto received = ::recv(socket_, data, static_cast<Length>(size), 0);
            if (received < 0 && was_interrupted())
                continue;
            if (received < 0)
                throw std::runtime_error("cannot receive: " + last_error());
            if (received == 0)
                throw std::runtime_error("the server has closed the connection");
            data += received;
            size -= static_cast<size_t>(received);
        }
    }

    Socket socket_ = NO_SOCKET;
    std::chrono::steady_clock::time_point deadline_;
};

// ---- requests and their answers

static PacketHeader header_of(const std::vector<char>& packet)
{
    PacketHeader header;
    std::memcpy(&header, packet.data(), sizeof(header));
    return header;
}

// The packet as the struct it should be; by memcpy, for a vector's bytes need not be aligned for one.
template <typename T>
static T as(const std::vector<char>& packet)
{
    if (packet.size() < sizeof(T))
        throw std::runtime_error("packet " + std::to_string(header_of(packet).packet_id) + " needs " +
                                 std::to_string(sizeof(T)) + " bytes, got " + std::to_string(packet.size()));
    T value;
    std::memcpy(&value, packet.data(), sizeof(T));
    return value;
}

// The answer carries the sequence number of its request; others' packets come in between.
static std::vector<char> wait_for_answer(Connection& connection, PacketType type, uint32_t sequence)
{
    while (true)
    {
        std::vector<char> packet = connection.receive();
        PacketHeader header = header_of(packet);
        if (header.sequence_number != sequence)
            continue;
        if (header.packet_id == type)
            return packet;
        if (header.packet_id == PACKET_ERROR)
        {
            ErrorPacket error = as<ErrorPacket>(packet);
            throw std::runtime_error("refused: " + error_name(error.code) + ": " + printable(get_text(error.text)));
        }
    }
}

static void log_in(Connection& connection, const std::string& user, const std::string& password)
{
    LoginPacket login;
    put_text(login.user_id, user, "the user name");
    put_text(login.password, password, "the password");
    connection.send(login, PACKET_LOGIN, 1);
    auto reply = as<LoginReplyPacket>(wait_for_answer(connection, PACKET_LOGIN_REPLY, 1));
    if (reply.code != 0)
        throw std::runtime_error("login failed: " + error_name(reply.code));
    std::printf("logged in as player %lu\n", static_cast<unsigned long>(reply.player_id));
}

static void say(Connection& connection, const std::string& user, const std::string& text)
{
    ChatPacket chat;
    put_text(chat.message, text, "the text");
    connection.send(chat, PACKET_CHAT, 2);
    auto heard = get_text(as<ChatPacket>(wait_for_answer(connection, PACKET_CHAT, 2)).message);
    std::printf("heard: %s\n", printable(heard).c_str());
    std::string expected = user + ": " + text;
    bool is_whole = expected.size() <= sizeof(chat.message);  // else the server cut the line to fit
    if (is_whole ? heard != expected : heard.empty() || expected.compare(0, heard.size(), heard) != 0)
        throw std::runtime_error("that is not what was said");
}

int main(int argc, char** argv)
{
    if (argc != 6)
    {
        std::fprintf(stderr, "usage: %s HOST PORT USER PASSWORD TEXT\n", argv[0]);
        return 1;
    }
    try
    {
        Network network;
        Connection connection(argv[1], argv[2]);
        log_in(connection, argv[3], argv[4]);
        say(connection, argv[3], argv[5]);
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "failed: %s\n", error.what());
        return 1;
    }
    std::printf("ok\n");
    return 0;
}
