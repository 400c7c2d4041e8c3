import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;

/** An HTTP server over a heap full of objects. */
public class JavaApp {
    record Item(int id, String name, double weight, int[] tags) {}

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        int count = Integer.parseInt(args[1]);
        Random random = new Random(4);
        List<Item> items = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            String name = "item " + n + " " + Long.toString(random.nextLong(), 36);
            items.add(new Item(n, name, random.nextDouble(), new int[] {n % 7, n % 11, n % 13}));
        }
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 16);
        server.createContext("/", exchange -> {
            String path = exchange.getRequestURI().getPath();
            String reply;
            if (path.equals("/state")) {
                reply = ProcessHandle.current().pid() + " " + items.size() + " " + digest(items);
            } else if (path.startsWith("/item/")) {
                reply = text(items.get(Integer.parseInt(path.substring(6))));
            } else {
                reply = String.valueOf(items.size());
            }
            byte[] body = reply.getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Connection", "close");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }

    static String text(Item item) {
        return item.id + "|" + item.name + "|" + item.weight + "|" + item.tags[0] + "," + item.tags[1] + "," + item.tags[2];
    }

    /** Touches every object. */
    static String digest(List<Item> items) {
        try {
            MessageDigest hash = MessageDigest.getInstance("SHA-256");
            for (Item item : items) {
                hash.update(text(item).getBytes(StandardCharsets.UTF_8));
            }
            return HexFormat.of().formatHex(hash.digest());
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
